from pathlib import Path

import pytest

from hw_models.device import Device
from hw_models.loading import load_device
from hw_models.shapes import layer_of
from hw_models.table import build_table, cost_policy
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

FILE = """
schema = 1

[identity]
name = "mine"
title = "Measured here"
kind = "lut"
source = "here"

[[capability]]
layers = ["conv", "linear"]
weights = ["int8", "float"]
activations = ["int8", "float"]
source = "here"

[compute]
file = "mine.csv"
source = "here"

[[source]]
id = "here"
title = "This machine"
"""
FIT = """
[[calibration]]
pair = "int8/int8"
c0_s = 1e-6
c1_s_per_mac = 1e-9
c2_s_per_byte = 1e-9
c3_s_per_byte = 1e-9
source = "here"
"""
ROWS = """kind,in_channels,out_channels,kernel,in_size,batch,weight,activation,weight_sign,activation_sign,seconds,joules
conv,8,16,3,10,1,int8,int8,signed,unsigned,0.001,0.5
conv,8,16,3,10,1,int8,int8,signed,signed,0.004,0.6
conv,8,16,3,10,1,float,float,,,0.010,0.7
"""


def conv(size: int = 10) -> Layer:
    return layer_of({"index": "a", "kind": "conv", "in_channels": "8", "out_channels": "16", "kernel": "3", "in_size": str(size)})


def device(folder: Path, extra: str = "", rows: str = ROWS) -> Device:
    (folder / "mine.csv").write_text(rows)
    (folder / "mine.toml").write_text(FILE + extra)
    return load_device(folder / "mine.toml")


def policy(weight: str, activation: str) -> dict[str, LayerPolicy]:
    return {"a": LayerPolicy(parse(weight), parse(activation))}


def test_the_key_holds_the_signs(tmp_path: Path) -> None:
    mine = device(tmp_path)
    fast, slow = cost_policy(mine, (conv(),), policy("int8", "int8:affine")), cost_policy(mine, (conv(),), policy("int8", "int8"))
    assert (fast["latency_s"], fast["energy_j"]) == (0.001, 0.5)
    assert (slow["latency_s"], slow["energy_j"]) == (0.004, 0.6)
    assert cost_policy(mine, (conv(),), policy("float", "float"))["latency_s"] == 0.010
    with pytest.raises(InputError, match="its shape was measured, but not at int8/int8"):
        cost_policy(mine, (conv(),), policy("int8:affine", "int8"))


def test_an_unseen_shape_is_refused_or_interpolated_and_marked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layer 'a' \(conv, 8 to 16 channels.*no layer of its shape was measured on mine"):
        cost_policy(device(tmp_path), (conv(12),), policy("int8", "int8"))
    layer = conv(12)
    table = build_table(device(tmp_path, FIT), (layer,), {"a": tuple(policy("int8", "int8").values())})
    expected = 1e-6 + 1e-9 * layer.macs + 1e-9 * (layer.in_elements + 4 * layer.out_elements) + 1e-9 * layer.weights
    (row,) = table.explain(policy("int8", "int8"))
    assert row["latency_s"] == pytest.approx(expected, rel=1e-12)
    assert row["note"] == "interpolated"
    seen = build_table(device(tmp_path, FIT), (conv(),), {"a": tuple(policy("int8", "int8").values())})
    assert seen.explain(policy("int8", "int8"))[0]["note"] == ""


def test_a_table_at_another_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch 2 in a row; the device file says 1"):
        cost_policy(device(tmp_path, rows=ROWS.replace("10,1,", "10,2,")), (conv(),), policy("int8", "int8"))


def test_a_table_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="columns cycles are missing"):
        cost_policy(device(tmp_path, rows=ROWS.replace("seconds", "minutes")), (conv(),), policy("int8", "int8"))


def test_bits_that_were_not_measured_say_what_they_are_taken_for(tmp_path: Path) -> None:
    device(tmp_path)
    plateau = 'activations = ["int8", "float"]\nweight_plateau = { int1-7 = "int8" }'
    (tmp_path / "mine.toml").write_text(FILE.replace('activations = ["int8", "float"]', plateau))
    mine = load_device(tmp_path / "mine.toml")
    for bits in (3, 5, 6):
        choice = policy(f"int{bits}", "int8:affine")
        (row,) = build_table(mine, (conv(),), {"a": tuple(choice.values())}).explain(choice)
        assert (row["latency_s"], row["note"]) == (0.001, "runs and moves as int8/int8")
