import csv
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_models.device import FOLDER
from hw_models.loading import load_device, parse_device
from hw_models.models.bitserial import BitSerialCompute, layer_cycles, products
from hw_models.shapes import layer_of
from hw_models.table import build_table
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

ARRAY = BitSerialCompute(rows=16, cols=16, word_bits=256, source="x")


def ceil(a: int, b: int) -> int:
    return (a + b - 1) // b


def cycles(layer: Layer, w: int, a: int, batch: int = 1, array: BitSerialCompute = ARRAY) -> float:
    compute, memory = layer_cycles(array, layer, np.array([w]), np.array([a]), batch)
    return float(max(compute[0], memory[0]))


@given(*(st.integers(1, 40) for _ in range(3)), st.sampled_from([1, 3, 5]), st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
def test_a_convolution_counts_words_as_a_loop_does(ci: int, co: int, size: int, k: int, w: int, a: int, batch: int) -> None:
    layer = layer_of({"kind": "conv", "in_channels": str(ci), "out_channels": str(co), "kernel": str(k), "in_size": str(size)})
    words = len(range(0, k * k * ci, 256))
    compute = activations = weights = 0
    for _ in range(batch):
        for _ in itertools.product(range(0, size * size, 16), range(0, co, 16), range(words)):
            compute += w * a
        activations += size * size * words * a
        weights += co * words * w
    assert cycles(layer, w, a, batch) == max(compute, activations, weights)


def test_linear_is_one_pass_over_the_batch_and_depthwise_shares_words() -> None:
    linear = layer_of({"kind": "linear", "in_channels": "1280", "out_channels": "1000", "kernel": "1", "in_size": "1"})
    assert products(linear, 16, 16) == (1, 16, 1280, 1000)
    assert cycles(linear, 2, 2, 16) == max(1 * ceil(1000, 16) * 5 * 4, 16 * 5 * 2, 1000 * 5 * 2)
    depthwise = layer_of({"kind": "depthwise", "in_channels": "40", "out_channels": "40", "kernel": "3", "in_size": "8"})
    assert products(depthwise, 2, 16) == (2 * 3, 64, 16 * 16, 16)
    transposed = replace(
        layer_of({"kind": "conv", "in_channels": "8", "out_channels": "4", "kernel": "2", "in_size": "5"}), kind="conv_transpose"
    )
    assert products(transposed, 1, 16) == (1, 25, 8, 16)
    grouped = layer_of({"kind": "conv", "in_channels": "32", "out_channels": "64", "kernel": "3", "in_size": "5", "groups": "4"})
    assert products(grouped, 1, 16) == (4, 25, 9 * 8, 16)


def test_an_operand_that_is_not_serial_takes_one_pass_at_any_width() -> None:
    layer = layer_of({"kind": "conv", "in_channels": "64", "out_channels": "512", "kernel": "3", "in_size": "14"})
    stripes = ARRAY.model_copy(update={"serial_w": False})  # Stripes: activations bit by bit, weights of 16 bits at once
    unpu = ARRAY.model_copy(update={"serial_a": False})  # UNPU: the other way round
    assert cycles(layer, 2, 4, array=stripes) == cycles(layer, 16, 4, array=stripes) < cycles(layer, 17, 4, array=stripes)
    assert cycles(layer, 2, 4, array=stripes) < cycles(layer, 2, 8, array=stripes)
    assert cycles(layer, 4, 2, array=unpu) == cycles(layer, 4, 16, array=unpu)
    assert cycles(layer, 4, 2, array=unpu) < cycles(layer, 8, 2, array=unpu)
    compute, _ = layer_cycles(ARRAY, layer, np.array([3]), np.array([5]), 1)
    serial_a, _ = layer_cycles(stripes, layer, np.array([3]), np.array([5]), 1)
    assert compute[0] == 3 * serial_a[0]


def test_whole_policies_of_haqs_table_are_within_its_bounds() -> None:
    with (FOLDER / "haq_vu9p_mobilenetv2.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    measured = {(int(r["index"]), int(r["w_bits"]), int(r["a_bits"])): float(r["cycles"]) for r in rows}
    layers = {int(r["index"]): layer_of(r) for r in rows}
    device = load_device("vu9p-bitserial")
    choices = [LayerPolicy(parse(f"int{w}:channel"), parse(f"int{a}")) for w in range(1, 9) for a in range(1, 9)]
    table = build_table(device, tuple(layers.values()), {layer.name: choices for layer in layers.values()})
    rng = np.random.default_rng(7)
    index = rng.integers(64, size=(2000, 53))
    truth = np.array([sum(measured[n, k // 8 + 1, k % 8 + 1] for n, k in enumerate(row)) for row in index.tolist()])
    error = np.abs(table.cost(index)["latency_s"] * device.clock_hz / truth - 1)
    assert error.mean() < 0.02
    assert error.max() < 0.035
    assert error.mean() > 0.01  # the model is no copy of the table


def test_peaks_of_bismo_boards() -> None:
    for name, tops in (("pynq-z1-bismo", 6.5), ("ultra96-bismo", 15.4)):
        array, clock = load_device(name).compute_as(BitSerialCompute), load_device(name).clock_hz
        assert 2 * array.rows * array.word_bits * array.cols * clock == pytest.approx(tops * 1e12, rel=0.02)


def test_an_array_without_units_is_refused() -> None:
    text = load_device("vu9p-bitserial").to_toml()
    for key in ("rows", "cols", "word_bits"):
        with pytest.raises(InputError, match=rf"compute\.{key}: Input should be greater than or equal to 1"):
            parse_device("\n".join(f"{key} = 0" if line.startswith(f"{key} ") else line for line in text.splitlines()))


def test_a_plateau_multiplies_the_planes_it_runs_as_and_loads_those_stored(toy: str) -> None:
    layer = layer_of({"layer": "a", "kind": "linear", "in_channels": "64", "out_channels": "40", "kernel": "1", "in_size": "1"})
    choices = tuple(LayerPolicy(parse(f"int{bits}"), parse("int8")) for bits in (3, 4))
    narrow, wide = (build_table(parse_device(toy), (layer,), {"a": choices}).explain({"a": choice})[0] for choice in choices)
    assert narrow["compute_s"] == wide["compute_s"]
    assert (narrow["memory_s"], wide["memory_s"]) == pytest.approx((40 * 3e-6, 40 * 4e-6), rel=1e-12)
    assert (narrow["note"], wide["note"]) == ("runs as int4/int8", "")
