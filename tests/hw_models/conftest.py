"""A small valid device file, and layers to cost."""

from pathlib import Path

import pytest

from hw_models.device import FOLDER
from hw_models.models.bitfusion.cache import schedules
from hw_models.shapes import read_layers
from quant_core.spec.layer import Layer

DEVICE = """
schema = 1

[identity]
name = "toy"
title = "A toy array"
kind = "bitserial"
clock_hz = 1e6
batch = 2
source = "made-up"

[[capability]]
layers = ["conv", "linear"]
weights = ["int2", "int4", "int8"]
activations = ["int4", "int8"]
weight_sign = "signed"
weight_plateau = { int3 = "int4", int5-7 = "int8" }
source = "made-up"

[[capability]]
layers = ["depthwise"]
weights = ["int8"]
activations = ["int4", "int8"]
pairs = ["int8/int8"]
pair_plateau = { "int8/int4" = "int8/int8" }
source = "made-up"

[compute]
rows = 4
cols = 4
word_bits = 64
source = "made-up"

[constraints]
sram_bytes = 1000
source = "made-up"

[[source]]
id = "made-up"
title = "Made up for the tests"
"""


@pytest.fixture
def toy() -> str:
    """Return the text of a small valid device file."""
    return DEVICE


@pytest.fixture
def mobilenet() -> tuple[Layer, ...]:
    """Return the 53 layers of MobileNetV2."""
    return read_layers(FOLDER / "haq_vu9p_mobilenetv2.csv")


@pytest.fixture
def golden() -> Path:
    """Return the folder of golden figures."""
    return Path(__file__).parent.parent / "golden"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder, which schedules of Bit Fusion are read from and written to."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    schedules.cache_clear()
    return tmp_path
