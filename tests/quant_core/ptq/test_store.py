"""Quantized weights keep their bits in memory and on disk, and nothing is encoded twice."""

import errno
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from quant_core import parse
from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode, encode
from quant_core.ptq.store import PackedWeight, QuantizedWeight, WeightStore, pack_codes, unpack_codes
from quant_core.util.spill import SpillFile, SpillWarning

SPECS = [
    *("int1:channel", "int2:channel", "int3:channel:mse", "int4:group4:affine", "int5:tensor", "int8:channel", "int9:channel"),
    *("int16:channel", "int4:vector16", "kmeans3:channel", "binary:channel", "ternary:ttq", "mx4", "mx9", "mxfp4", "mxfp8e5m2", "nvfp4"),
]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 8), (7, 33)])
def test_codes_come_back_from_whole_bytes(bits: int, shape: tuple[int, int]) -> None:
    dtype = torch.uint8 if bits <= 8 else torch.int32
    codes = torch.randint(0, 2 ** min(bits, 31), shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = pack_codes(codes, bits)
    assert packed.nbytes == -(-shape[0] * shape[1] * bits // 8)
    back = unpack_codes(packed, bits, shape, dtype)
    assert back.dtype == dtype
    assert torch.equal(back, codes)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("spilled", [False, True])
def test_every_format_comes_back_to_the_bit(spec: str, spilled: bool) -> None:
    weight, bias, file = torch.randn(6, 35, generator=torch.Generator().manual_seed(0)), torch.arange(6.0), SpillFile()
    encoded = encode(weight, spec)
    packed = PackedWeight(encoded, bias)
    if spilled:
        packed.spill(file)
        assert packed.nbytes == 0
    back, kept = packed.encoded(file), packed.bias(file)
    assert kept is not None
    assert torch.equal(kept, bias)
    assert torch.equal(decode(back, spec, (6, 35)), decode(encoded, spec, (6, 35)))
    for name in ("codes", "scale", "coarse", "zero_point", "codebook", "micro"):
        before, after = getattr(encoded, name), getattr(back, name)
        assert (before is None) == (after is None)
        assert before is None or (before.dtype == after.dtype and torch.equal(before, after)), name
    assert back.low == encoded.low


class Layers:
    """Weights of 4 KiB each and a count of what was done to them."""

    def __init__(self, limit: int) -> None:
        self.file = SpillFile()
        self.store, self.encodes, self.decodes = WeightStore(limit, self.file), 0, 0
        self.spec = parse("int4:channel")

    def _make(self, name: str) -> tuple[Encoded, QuantizedWeight]:
        self.encodes += 1
        encoded = encode(torch.randn(32, 32, generator=torch.Generator().manual_seed(ord(name))), self.spec)
        return encoded, QuantizedWeight(decode(encoded, self.spec, (32, 32)), None)

    def _decode(self, encoded: Encoded) -> Tensor:
        self.decodes += 1
        return decode(encoded, self.spec, (32, 32))

    def weight(self, name: str) -> Tensor:
        weight = self.store.weight((name, self.spec), lambda: self._make(name), self._decode).weight
        assert torch.equal(weight, self._make(name)[1].weight)
        self.encodes -= 1
        assert self.store.counts.bytes <= max(self.store.limit, 0)
        return weight

    def encoded(self, name: str) -> Encoded:
        return self.store.encoded((name, self.spec), lambda: self._make(name))


@pytest.mark.parametrize(("limit", "decodes"), [(0, 6), (1000, 6), (6000, 4), (10_000, 3), (2**20, 0)])
def test_a_small_limit_costs_decoding_and_no_encoding(limit: int, decodes: int) -> None:
    layers = Layers(limit)
    for name in "abcabcabc":
        layers.weight(name)
    assert layers.encodes == layers.store.counts.misses == 3
    assert layers.store.counts.hits == 6
    assert layers.decodes >= (6 if decodes else 0) // 2
    assert (layers.decodes == 0) == (decodes == 0)
    for name in "abc":
        assert torch.equal(layers.encoded(name).codes, layers._make(name)[0].codes)
    assert layers.store.counts.misses == 3


def test_values_go_before_codes_do() -> None:
    layers = Layers(2**20)
    for name in "abc":
        layers.weight(name)
    codes = 3 * (512 + 128)
    assert layers.store.counts.bytes == 3 * 4096 + codes
    layers.store.limit = 4096 + codes
    assert (layers.store.counts.bytes, layers.store.counts.evictions, layers.file.nbytes) == (4096 + codes, 2, 0)
    layers.store.limit = codes
    assert (layers.store.counts.bytes, layers.store.counts.evictions, layers.file.nbytes) == (codes, 3, 0)
    layers.store.limit = codes - 1
    assert (layers.store.counts.bytes, layers.store.counts.evictions, layers.file.nbytes) == (codes - 640, 4, 640)
    assert layers.store.counts.spilled == 640


def test_a_full_disk_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("quant_core.util.spill._allocate", full)
    layers = Layers(300)
    with pytest.warns(SpillWarning, match=r"\(No space left on device\) and are encoded again when needed; raise cache_mib, or set TMPDIR"):
        layers.weight("a")
    for name in "bab":
        layers.weight(name)  # one warning is enough
    assert layers.encodes == 4


def test_a_pickled_copy_has_the_codes() -> None:
    layers = Layers(700)
    for name in "ab":
        layers.weight(name)
    layers.store, layers.file = pickle.loads(pickle.dumps((layers.store, layers.file)))
    for name in "ab":
        layers.weight(name)
    assert layers.encodes == 2
