"""Files of kernels: those that ship, their use, and damaged ones."""

from pathlib import Path

import pytest

from hw_models.runtimes import flags, load_runtime, runtime_names
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, parse_layer_policy
from quant_core.util.errors import InputError

LINEAR = Layer("fc", "linear", 32, 64, (64, 32), (1,), (1,), 2048)
CONV = Layer("conv", "conv", 32, 32, (32, 32, 3, 3), (8, 8), (8, 8), 9216 * 64, (3, 3), (1, 1), (1, 1))


def test_the_runtimes_that_ship() -> None:
    assert runtime_names() == ("executorch", "litert", "onnxruntime", "openvino")


@pytest.mark.parametrize("name", ["executorch", "litert", "onnxruntime", "openvino"])
def test_every_file_covers_four_kinds_of_layers_in_two_to_eight_bits(name: str) -> None:
    file = load_runtime(name)
    assert {table.layer for table in file.kernels} == {"conv", "depthwise", "conv_transpose", "linear"}
    assert len(file.kernels) == 16
    for table in file.kernels:
        assert list(table.runs) == list(table.stored) == [f"int{bits}" for bits in range(2, 9)]


def test_what_a_choice_is_stored_and_runs_as() -> None:
    file = load_runtime("openvino")
    assert file.kernel(LINEAR, parse_layer_policy("weight=int3:channel")) == ("i4", "4-bit weights")
    assert file.kernel(CONV, parse_layer_policy("weight=int4:channel,activation=int8:tensor")) == ("i4", "int8")
    assert file.kernel(LINEAR, LayerPolicy()) == ("", "")


def test_choices_that_run_as_float_are_flagged_once_for_all_layers() -> None:
    choices = {"conv": (parse_layer_policy("weight=int3:channel"), LayerPolicy()), "fc": (parse_layer_policy("weight=int3:channel"),)}
    (flag,) = flags(load_runtime("openvino"), (CONV, LINEAR), choices)
    assert flag.startswith("int3:channel weights of conv layers with float inputs are stored as i4 and run as float32 in openvino 2026.")
    assert flag.endswith(": 1 layer")


def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('schema = 1\nruntime = "mine"\n')
    with pytest.raises(InputError, match=r"mine\.toml: version: Field required; `bitfront probe RUNTIME --out FILE` writes such a file\.$"):
        load_runtime(path)
    with pytest.raises(InputError, match="nowhere"):
        load_runtime(tmp_path / "nowhere.toml")
