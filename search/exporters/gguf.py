"""`model.gguf`: weights in GGUF's own types, bit for bit those of the policy; of Llama-class networks a file that llama.cpp runs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.codecs.quantize import decode
from quant_core.export import gguf_file, gguf_llama, gguf_types, gguf_vocabulary
from quant_core.export.gguf_file import Field, Stored
from quant_core.export.stored import StoredLayer
from quant_core.network.parameters import state_name
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import write_text
from quant_core.util.text import first_fault, listed
from search.exporters import Bundle, Exported
from search.exporters.gguf_replay import replayed
from search.exporters.pretrained import inner_name
from search.tasks.tokenizer import Tokenizer

FILE, TYPES = "model.gguf", "tensor-types.txt"
LONGEST_NAME = 63
_BIAS = "a bias, for which llama.cpp's {} has no place{}; set bias_correction = false under [evaluate], or leave the layer in float"
ONE_ULP = 2.0**-22
"""NVFP4 has the scale of its tensor in a tensor of its own: the product of three factors is rounded in another order."""


@dataclass
class Contents:
    """The parts of a file.

    Attributes:
        arch, fields: metadata.
        tensors: GGUF's name -> tensor.
        values: GGUF's name -> the values that must be read back.
        rows: GGUF's name -> order of the rows that were written, where it is not their own.
        names: name in the network -> GGUF's name.
        carried: notes of types wider than the policy's bits -> layers.
        notes: for the user.
        runs: llama.cpp computes the network.
    """

    arch: str
    runs: bool = False
    fields: dict[str, Field] = field(default_factory=dict)
    tensors: dict[str, Stored] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    carried: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the file, read it back, and run it: by llama.cpp where it computes the network and is installed, else decoded.

    Raises:
        InputError: GGUF cannot hold the policy or the network, or the gguf library is not installed.
        BitfrontError: types or values that are read back are not those of the policy, or the outputs are not.
    """
    gguf_file.library()
    _require_held(bundle)
    contents = _contents(bundle)
    gguf_file.write(folder / FILE, contents.arch, contents.fields, contents.tensors)
    types = _read_back(folder / FILE, contents)
    write_text(folder / TYPES, _type_list(contents))
    checks, notes = replayed(bundle, folder / FILE, contents.names, contents.rows, runs=contents.runs)
    checks |= {"stored_types": types, "file_bytes": (folder / FILE).stat().st_size, "architecture": contents.arch}
    checks |= {"payload_bytes": sum(stored.data.nbytes for stored in contents.tensors.values())}
    checks |= {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy)}
    carried = [f"{note}: {listed(layers)}" for note, layers in contents.carried.items()]
    return Exported((FILE, TYPES), checks, (*contents.notes, *carried, *notes))


def refusal(layer: Layer, policy: LayerPolicy, *, rounded: bool = False) -> str:
    """Return why GGUF does not hold a layer, or ""; `rounded`: scales may be rounded to float16."""
    weight, activation = policy.weight, policy.activation
    if not activation.is_float:
        return f"GGUF holds weights alone, and llama.cpp rounds inputs by itself; use activation float in place of {activation}"
    if weight.is_float:
        return ""
    if len(layer.weight_shape) != 2 or layer.channel_axis or layer.stack_shape:
        return f"GGUF's types run along the rows of a matrix, this is a {layer.kind} weight of shape {layer.weight_shape}; use onnx"
    return gguf_types.refusal(weight, layer.weight_shape[1], rounded=rounded)


def _require_held(bundle: Bundle) -> None:
    """Refuse a policy that the format does not hold; what may be stored dequantized is."""
    faults = []
    for stored in bundle.network.stored:
        policy = stored.policy if not bundle.allow_dequantized else replace(stored.policy, weight=LayerPolicy().weight)
        if fault := refusal(stored.layer, policy, rounded=bundle.round_scales):
            faults.append(f"layer {stored.layer.name!r}: {fault}")
    if faults:
        raise InputError(f"{first_fault(faults)}.")


def _contents(bundle: Bundle) -> Contents:
    network = bundle.network
    state = {name: tensor for name, tensor in network.plain.state_dict().items() if not name.endswith(".num_batches_tracked")}
    layers = {state_name(network.base, stored.layer.name): stored for stored in network.stored}
    contents, config = _named(bundle, state, layers)
    for name, stored_name in contents.names.items():
        stored, tensor = layers.get(name), state[name]
        if stored is None or stored.encoded is None or gguf_refuses(stored, bundle.round_scales):
            data = tensor.detach().to(torch.float32).numpy()
            values, kind = data, Stored("F32", tuple(data.shape), data)
            if stored is not None and stored.encoded is not None:
                contents.carried.setdefault("weights are stored dequantized, in float32", []).append(stored.layer.name)
        else:
            kind, values = _quantized(stored, bundle.round_scales, contents)
        order = gguf_llama.rows(name, values.shape[0], config, contents.arch) if config is not None else None
        if order is not None:
            contents.rows[stored_name] = order
            kind, values = replace(kind, data=kind.data[order]), values[order]
        contents.tensors[stored_name], contents.values[stored_name] = kind, values
        if kind.kind == "NVFP4":
            assert stored is not None
            if contents.runs and stored_name == "token_embd.weight":
                raise InputError(f"layer {stored.layer.name!r}: llama.cpp reads no scale of an nvfp4 embedding; use mxfp4 or int8:group32.")
            _add_tensor_scale(contents, stored_name, stored)
    if config is not None:
        for name, data in gguf_llama.extra_tensors(config).items():
            contents.tensors[name], contents.values[name] = Stored("F32", data.shape, data), data
    return contents


def gguf_refuses(stored: StoredLayer, rounded: bool) -> bool:
    """Tell whether a layer's weight has no type, so that it is stored dequantized."""
    return bool(refusal(stored.layer, LayerPolicy(stored.policy.weight), rounded=rounded))


def _quantized(stored: StoredLayer, rounded: bool, contents: Contents) -> tuple[Stored, NDArray[np.float32]]:
    """Return a weight in its type, and its values; a scale that float16 rounds to 0 or infinity is refused."""
    spec, encoded = stored.policy.weight, stored.encoded
    assert encoded is not None
    exact = stored.weight.to(torch.float32)
    if spec.format in ("int", "ternary"):
        assert encoded.scale is not None
        half = encoded.scale.to(torch.float16).to(torch.float32)
        if not bool(torch.isfinite(half).all()) or bool(((half == 0) & (encoded.scale != 0)).any()):
            raise InputError(f"layer {stored.layer.name!r}: scales of {spec} lie outside of float16, in which GGUF holds them; use mxfp4.")
        if not torch.equal(half, encoded.scale):
            encoded = replace(encoded, scale=half)
    kind, data = gguf_types.packed(encoded, spec, rounded=rounded)
    values = decode(encoded, spec, stored.layer.weight_shape)
    if kind.name in ("Q4_1", "Q5_1"):
        values = torch.from_numpy(gguf_file.dequantized(data, kind.name))
    if not torch.equal(values, exact):
        share = float((values - exact).abs().max() / exact.abs().max())
        note = f"scales of {spec} are rounded to float16 (weights change by up to {share:.1e} of the largest)"
        contents.carried.setdefault(note, []).append(stored.layer.name)
    if kind.bits > spec.bits_per_element(stored.layer.weight_shape) + 0.6:
        note = f"{spec} is stored as {kind.name}, in {kind.bits:.4g} bits"
        contents.carried.setdefault(note, []).append(stored.layer.name)
    return Stored(kind.name, stored.layer.weight_shape, data), values.numpy()


def _add_tensor_scale(contents: Contents, name: str, stored: StoredLayer) -> None:
    """Add the scale of an NVFP4 tensor, as llama.cpp reads it: NAME.scale beside NAME.weight."""
    assert stored.encoded is not None
    assert stored.encoded.coarse is not None
    data = stored.encoded.coarse.reshape(1).numpy()
    scale = name.removesuffix(".weight") + ".scale"
    contents.tensors[scale], contents.values[scale] = Stored("F32", (1,), data), data


def _named(bundle: Bundle, state: dict[str, Tensor], layers: dict[str, StoredLayer]) -> tuple[Contents, Any]:
    """Return the metadata and names of a file, and the configuration of a network that llama.cpp knows, or None."""
    config, prefix, arch = _llama(bundle.task.model, state)
    general: dict[str, Field] = {
        "general.type": "model",
        "general.name": bundle.experiment.task.name,
        "general.quantized_by": "bitfront",
        "bitfront.policy": bundle.policy.id,
    }
    if not arch:
        kind = str(getattr(config, "model_type", "")) or type(bundle.task.model).__name__
        contents = Contents(kind, fields=general, names=_untied(state, layers, {name: name for name in state}))
        contents.notes.append(f"tensors stand under the names of the network: llama.cpp has no architecture {kind!r} in this file's form")
    else:
        general |= gguf_llama.fields(config, arch)
        vocabulary, notes = _vocabulary(bundle, int(config.vocab_size))
        kept = _without_empty_biases(state, arch)
        names = {name: name.removeprefix(prefix) for name in kept}
        _require_biases(kept, arch)
        stored = gguf_llama.tensor_names(dict.fromkeys(names.values()), config, arch)
        contents = Contents(arch, True, general | vocabulary, names=_untied(state, layers, {name: stored[names[name]] for name in kept}))
        contents.notes += notes
    long = [name for name in contents.names.values() if len(name.encode()) > LONGEST_NAME]
    if long:
        raise InputError(f"names in GGUF have at most {LONGEST_NAME} bytes, {long[0]!r} has more; use safetensors or onnx.")
    return contents, config if arch else None


def _llama(model: nn.Module, state: Iterable[str]) -> tuple[Any, str, str]:
    """Return the configuration of a transformers network, the prefix of its names, and llama.cpp's architecture or ""."""
    inner = inner_name(model)
    module = model.get_submodule(inner) if inner is not None else None
    config, prefix = getattr(module, "config", None), f"{inner}." if inner else ""
    causal = type(module).__name__.endswith("ForCausalLM") and all(name.startswith(prefix) for name in state)
    return config, prefix, gguf_llama.architecture(config) if causal else ""


def bias_fault(model: nn.Module, layer: Layer) -> str:
    """Return why llama.cpp has no place for the bias that bias correction gives a quantized layer, or ""."""
    arch = _llama(model, model.state_dict())[2] if layer.kind == "linear" else ""
    return f"bias correction gives it {_BIAS.format(arch, '')}" if arch and _misplaced(f".{layer.name}.bias", arch) else ""


def _without_empty_biases(state: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Return the tensors without biases of zeros that llama.cpp has no place for."""
    return {name: tensor for name, tensor in state.items() if not _misplaced(name, arch) or bool(tensor.any())}


def _misplaced(name: str, arch: str) -> bool:
    return name.endswith(".bias") and name.split(".")[-2] not in gguf_llama.BIASES[arch]


def _require_biases(state: dict[str, Tensor], arch: str) -> None:
    """Refuse a bias that llama.cpp does not read: bias correction makes them."""
    faults = [
        f"layer {name.removesuffix('.bias')!r} has {_BIAS.format(arch, ': bias correction made it')}"
        for name in state
        if _misplaced(name, arch)
    ]
    if faults:
        raise InputError(f"{first_fault(faults)}.")


def _untied(state: dict[str, Tensor], layers: dict[str, StoredLayer], names: dict[str, str]) -> dict[str, str]:
    """Return the names without tensors that are another layer's very weight: they are stored once."""
    by_layer = {stored.layer.name: name for name, stored in layers.items()}
    same = {
        name
        for name, stored in layers.items()
        if stored.owner in by_layer and by_layer[stored.owner] != name and torch.equal(state[name], state[by_layer[stored.owner]])
    }
    return {name: stored for name, stored in names.items() if name not in same}


def _vocabulary(bundle: Bundle, size: int) -> tuple[dict[str, Field], tuple[str, ...]]:
    tokenizer = bundle.task.tokenizer
    if isinstance(tokenizer, Tokenizer):
        return gguf_vocabulary.from_pieces(tokenizer.pieces, tokenizer.scores), ()
    if tokenizer is None:
        note = "the file has no vocabulary, so llama.cpp takes token numbers only: give Task(..., tokenizer=...)"
        return gguf_vocabulary.no_vocabulary(), (note,)
    return gguf_vocabulary.from_tokenizer(tokenizer, size)


def _read_back(path: Path, contents: Contents) -> str:
    """Return the types of the file with how many tensors have them.

    Raises:
        BitfrontError: a tensor is missing, of another type, or has other values than the policy.
    """
    fields, read = gguf_file.read(path)
    wrong = [name for name, value in contents.fields.items() if not _same(fields, name, value)]
    faults = [f"{name} does not read back as it was written" for name in wrong]
    for name, stored in contents.tensors.items():
        kind, values = read.get(name, ("nothing", np.empty(0, np.float32)))
        if kind != stored.kind:
            faults.append(f"tensor {name!r} is stored as {kind}, {stored.kind} was asked for")
        elif kind == "NVFP4":
            values = values * contents.values[name.removesuffix(".weight") + ".scale"]
            if not np.allclose(values, contents.values[name], rtol=ONE_ULP, atol=0):
                faults.append(f"tensor {name!r} does not decode to the values of the policy")
        elif not np.array_equal(values, contents.values[name]):
            faults.append(f"tensor {name!r} does not decode to the values of the policy")
    if faults:
        raise BitfrontError(f"{path.name}: {first_fault(faults)}. Nothing was written.")
    counted = Counter(kind for kind, _ in read.values())
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(counted.items()))


def _same(fields: dict[str, Any], name: str, value: Field) -> bool:
    written = fields.get(name)
    if isinstance(value, float):
        return written == np.float32(value)
    if isinstance(value, str | int | bool):
        return bool(written == value)
    return written is not None and len(written) == len(value)


def _type_list(contents: Contents) -> str:
    """Return a line per matrix for `llama-quantize --tensor-type-file`, as REGEX=TYPE; it rounds the weights by itself."""
    kinds = {name: stored.kind for name, stored in contents.tensors.items() if len(stored.shape) == 2}
    return "".join(f"^{name.replace('.', chr(92) + '.')}$={kind.lower()}\n" for name, kind in kinds.items())
