"""Packed files and JSON of strangers: our own errors only, in bounded work and memory."""

import json
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from quant_core.export.inspect import describe
from quant_core.export.packed_file import load_packed, save_packed
from quant_core.export.reading import _grids
from quant_core.spec.layer import layers_from_json
from quant_core.spec.policy import SCHEMA, Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.reading import parse_json, parse_toml, read_json
from tests.hostile import only_ours

SPECS = ["int4:channel", "int3:group4:affine", "kmeans2:channel", "ternary", "binary:channel", "mx6", "mxfp4", "nvfp4", "int4:vector16"]
DEEP = "[" * 100_000 + "]" * 100_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*SPECS, SCHEMA, 10**400, -1, 2**63]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def valid(path: Path) -> bytes:
    torch.manual_seed(0)
    tensors = {f"w{i}": (torch.randn(4, 32), parse(spec), 0) for i, spec in enumerate(SPECS)}
    save_packed(path, tensors, plain={"bias": torch.randn(4), "half": torch.randn(3).to(torch.bfloat16)})
    return path.read_bytes()


def attempt(path: Path) -> None:
    for read in (describe, load_packed):
        with only_ours(BitfrontError, 4_000):
            read(path)


@quick
@given(data=st.data())
def test_a_mutated_file(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    content = bytearray(valid(path))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), 4, 8, 100, len(content) - 1]))]))
    attempt(path)


@quick
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    attempt(path)


@quick
@given(
    key=st.sampled_from(["spec", "shape", "channel_axis", "dtype"]),
    value=JSON | st.lists(st.sampled_from([0, 1, 4, 128, 2**31 - 1, 2**31, 2**62, -1]), max_size=70),
)
def test_any_metadata(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "x.safetensors"
    entry = {"spec": "int8:channel", "shape": [4, 32]} | {key: value}
    save_file({"w": torch.zeros(144, dtype=torch.uint8)}, path, {"bitfront": "bitfront.packed/1", "tensor.w": json.dumps(entry)})
    attempt(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"spec": 8, "shape": [4]}', "8 given where a text is needed"),
        ('{"spec": "int8", "shape": [1e400]}', "too large for a float"),
        ('{"spec": "int8", "shape": [-4]}', "a whole number from 0"),
        ('{"spec": "int8", "shape": [true]}', "a whole number from 0"),
        ('{"spec": "int8", "shape": [1.5]}', "a whole number from 0"),
        ('{"spec": "int8", "shape": [0, 99999999999999]}', "a whole number from 0"),
        ('{"spec": "int8", "shape": [0, 4, 2147483647, 2147483647]}', "more elements than any tensor"),
        ('{"spec": "int8", "shape": [NaN]}', "NaN given in JSON"),
        ('{"spec": "int8", "spec": "int8", "shape": [4]}', "'spec' stands twice"),
        ('{"spec": "int8", "shape": ' + DEEP + "}", "nested too deeply"),
        ('{"spec": "int8:group' + "9" * 5000 + '", "shape": [4]}', "is not allowed"),
        ("[1]", "is no packed tensor"),
        ("null", "is no packed tensor"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(4, dtype=torch.uint8)}, path, {"tensor.w": text})
    with pytest.raises(InputError, match=message):
        describe(path)


def test_a_packed_tensor_that_is_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(4, dtype=torch.bfloat16)}, path, {"tensor.w": '{"spec": "int8", "shape": [4]}'})
    with pytest.raises(InputError, match="w are not stored as rows of bytes"):
        describe(path)


def test_a_type_that_nobody_knows_and_a_size_that_nobody_has(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for header in (
        {"w": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 1]}},
        {"w": {"dtype": "F32", "shape": [2**60, 2**60], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}},
        {"w": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}},
    ):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
        attempt(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(InputError, match="is no safetensors file"):
        describe(path)


@quick
@given(JSON)
def test_any_policy_and_any_layers(data: Any) -> None:
    for read in (
        Policy.from_json,
        layers_from_json,
        lambda value: Policy.from_json({"schema": SCHEMA, "layers": value}),
        lambda value: Policy.from_json({"schema": SCHEMA, "layers": {"a": value}}),
        lambda value: Policy.from_json({"schema": SCHEMA, "layers": {"a": {"weight": value}}}),
        lambda value: layers_from_json([{"name": "a", "kind": value}]),
    ):
        with only_ours(InputError, 4_000):
            read(data)


@quick
@given(st.text(max_size=60) | st.sampled_from([DEEP, '{"a":' * 2000, "1e400", "1" * 10_000, "NaN", '{"a":1,"a":2}']))
def test_any_json_and_toml_text(text: str) -> None:
    for read in (parse_json, parse_toml):
        with only_ours(InputError, 1_000):
            read(text, "it")


@quick
@given(st.text(max_size=60) | st.lists(st.sampled_from([*SPECS, "int4", "group8", "channel", "9" * 5000, "affine", ""])).map(":".join))
def test_any_spec(text: str) -> None:
    with only_ours(InputError, 1_000):
        parse(text)


@pytest.mark.parametrize("text", [DEEP, "{}", "[]", '{"inputs": {"a": {"spec": 8}}, "tied": {}}', '{"inputs": [], "tied": {}}', "1e400"])
def test_grids_of_a_stranger(tmp_path: Path, text: str) -> None:
    path = tmp_path / "activations.json"
    path.write_text(text)
    with pytest.raises(InputError, match="Give the folder of a safetensors export"):
        _grids(path)


def test_a_file_without_end_is_not_read() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="it is no file"):
        read_json(Path("/dev/zero"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
