"""The public names: all there, typed, and free of heavy imports until they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

import bitfront

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "mlflow", "ray", "optuna", "pandas", "plotly", "onnx", "numpy", "scipy", "pydantic")


def test_import_loads_nothing_heavy() -> None:
    code = f"import bitfront, sys; dir(bitfront); print([name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert dir(bitfront) == sorted(bitfront.__all__)
    for name in bitfront.__all__:
        assert getattr(bitfront, name).__doc__


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"'bitfront' has no attribute 'swep'; its names: .*sweep"):
        _ = bitfront.swep


@pytest.mark.parametrize("package", ["bitfront", "search", "quant_core", "spaces", "hw_models"])
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
