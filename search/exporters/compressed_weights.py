"""The packed weights of a compressed-tensors folder: made by the compressors of the library, read back and compared with the policy."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.codecs.scales import power_of_two
from quant_core.export.plain_file import read_tensors
from quant_core.export.stored import StoredLayer
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import BitfrontError
from quant_core.util.text import first_fault

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMATS = {"int": "pack-quantized", "nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_global_scale")
"""Tensors of a packed layer, by the names of the library."""
_MINUS_ZERO = 8
"""Among the codes of E2M1."""


@dataclass(frozen=True, eq=False)
class Place:
    """A quantized layer as the library knows it: its name within the transformers network, its group, and the group's scheme."""

    name: str
    group: str
    scheme: Any
    stored: StoredLayer


def symmetric(layers: Sequence[StoredLayer]) -> bool:
    """Tell whether the zero point of every input is 0; those that are never negative have an unsigned grid."""
    return all(stored.grid is None or (stored.grid.quant_min < 0 and stored.grid.zero_point == 0) for stored in layers)


def packed(place: Place) -> dict[str, Tensor]:
    """Return the parts of a packed layer."""
    spec, encoded = place.stored.policy.weight, place.stored.encoded
    assert encoded is not None
    assert encoded.scale is not None
    parts: dict[str, Tensor] = {"weight": place.stored.weight.float(), "weight_scale": encoded.scale.float()}
    if encoded.coarse is not None:
        parts["weight_global_scale"] = encoded.coarse.reshape(1).reciprocal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: dict[str, Tensor] = compressor(spec).compress(parts, place.scheme)
    if (grid := place.stored.grid) is not None:
        made["input_scale"] = torch.tensor([grid.scale])
        if not symmetric([place.stored]):
            shift = 0 if grid.quant_min < 0 else 128
            made["input_zero_point"] = torch.tensor([int(grid.zero_point) - shift], dtype=torch.int8)
    return made


def compressor(spec: QuantSpec) -> Any:
    """Return the library's compressor for weights of a spec."""
    return import_module("compressed_tensors.compressors").BaseCompressor.get_value_from_registry(FORMATS[spec.format])


def read_back(out: Path, places: Sequence[Place]) -> str:
    """Return how many layers the files hold at how many bits, by the library's own objects.

    Raises:
        BitfrontError: the library does not take the configuration, or a layer has other bits or values than the policy.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind: Any = import_module("compressed_tensors.quantization").QuantizationConfig
            config = kind.model_validate(json.loads((out / CONFIG).read_text(encoding="utf-8"))["quantization_config"])
    except Exception as error:  # pydantic's and its own
        raise BitfrontError(f"compressed-tensors does not take {CONFIG}: {error}") from error
    state, counted, faults = read_tensors(out / WEIGHTS), Counter[str](), []
    schemes = {target: scheme for scheme in config.config_groups.values() for target in scheme.targets}
    for place in places:
        spec = place.stored.policy.weight
        parts = {part: state[f"{place.name}.{part}"] for part in PARTS if f"{place.name}.{part}" in state}
        scheme = schemes.get(place.name)
        if scheme is None or scheme.weights is None or "weight_packed" not in parts:
            faults.append(f"layer {place.name!r} is not packed")
        elif (scheme.weights.num_bits, str(scheme.weights.type).rpartition(".")[2].lower()) != (spec.bits, _type(spec)):
            faults.append(f"layer {place.name!r} has {scheme.weights.num_bits} bits, {spec} was asked for")
        elif not _same_values(parts, scheme, place.stored):
            faults.append(f"layer {place.name!r} does not unpack to the values of {spec}")
        counted[f"{spec.format if spec.format != 'int' else f'int{spec.bits}'} in {FORMATS[spec.format]}"] += 1
    if faults:
        raise BitfrontError(f"{WEIGHTS}: {first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{name} x {count}" for name, count in sorted(counted.items()))


def _same_values(parts: dict[str, Tensor], scheme: Any, stored: StoredLayer) -> bool:
    """Tell whether packed parts are a layer's weight.

    Integers are unpacked by the library. Minifloats it unpacks in bfloat16, so there the codes (without the sign of 0) and scales count.
    """
    spec, encoded = stored.policy.weight, stored.encoded
    assert encoded is not None
    assert encoded.scale is not None
    if spec.format == "int":
        return torch.equal(compressor(spec).decompress(parts, scheme)["weight"].float(), stored.weight.float())
    bytes_of, codes = parts["weight_packed"], torch.where(encoded.codes == _MINUS_ZERO, 0, encoded.codes)
    read = torch.stack([bytes_of & 15, bytes_of >> 4], dim=2).reshape(codes.shape)
    scale = parts["weight_scale"]
    values = scale.float() if spec.format == "nvfp4" else power_of_two(scale.to(torch.int32) - 127)
    same = torch.equal(torch.where(read == _MINUS_ZERO, 0, read), codes) and torch.equal(values, encoded.scale)
    if encoded.coarse is None:
        return same
    return same and torch.equal(parts["weight_global_scale"].reshape(1, 1), encoded.coarse.reciprocal())


def _type(spec: QuantSpec) -> str:
    return "int" if spec.format == "int" else "float"
