"""`model.safetensors` and `activations.json`: every weight packed at its bits, biases, and the grids of the inputs."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.activation import ActivationQuantizer, to_grid
from quant_core.codecs import Encoded
from quant_core.errors import BitfrontError
from quant_core.export.stored import StoredLayer
from quant_core.files import write_text
from quant_core.forward import forward
from quant_core.packed_file import load_packed, save_packed
from quant_core.policy import LayerPolicy, Policy
from quant_core.size import weight_bytes
from quant_core.spec import QuantSpec, parse
from search.exporters import Bundle, Exported
from search.exporters.verify import compare

FILE, ACTIVATIONS = "model.safetensors", "activations.json"
SLACK = 0.01


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write both files, read them into a fresh copy of the network and run it on the test split: it gives the same bits.

    Raises:
        BitfrontError: what was read back differs, or takes more bytes than modelled.
    """
    stored, state = bundle.network.stored, bundle.network.plain.state_dict()
    _save(bundle, stored, state, folder)
    read, grids = load_packed(folder / FILE), json.loads((folder / ACTIVATIONS).read_text(encoding="utf-8"))
    again = _rebuilt(bundle, read, grids)
    _check_bits(state, again.state_dict())
    found = compare(bundle, lambda inputs: forward(again, inputs))
    if found.difference:
        raise BitfrontError(
            f"the network read back from {FILE} gives outputs that differ by up to {found.difference:.3g}; none may differ."
        )
    return Exported((FILE, ACTIVATIONS), found.checks | _sizes(bundle, stored, read, folder))


def _save(bundle: Bundle, stored: tuple[StoredLayer, ...], state: dict[str, Tensor], folder: Path) -> None:
    packed: dict[str, tuple[Tensor, QuantSpec, int]] = {}
    encoded: dict[str, Encoded] = {}
    tied: dict[str, str] = {}
    grids = {}
    for each in stored:
        name, owner = f"{each.layer.name}.weight", f"{each.owner}.weight"
        if each.encoded is not None:
            packed[name], encoded[name] = (each.weight, each.policy.weight, each.layer.channel_axis), each.encoded
        if name != owner and torch.equal(each.weight, state[owner]):
            tied[name] = owner
            packed.pop(name, None)
        if not each.policy.activation.is_float and each.layer.calls and each.layer.kind != "embedding":
            grids[each.layer.name] = {"spec": str(each.policy.activation), "grid": each.grid}
    plain = {name: tensor for name, tensor in state.items() if name not in packed and name not in tied}
    notes = {"policy": bundle.policy.id} | ({"tied": json.dumps(tied)} if tied else {})
    save_packed(folder / FILE, packed, plain=plain, metadata=notes, encoded=encoded)
    write_text(folder / ACTIVATIONS, json.dumps({"tied": tied, "inputs": grids}, indent=1) + "\n")


def _rebuilt(bundle: Bundle, read: dict[str, Tensor], written: dict[str, Any]) -> nn.Module:
    """Return a network that holds what was read: every tensor (until then zeros), and quantizers of the inputs."""
    model = copy.deepcopy(bundle.network.base).requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.zero_()
    tensors = read | {name: read[owner] for name, owner in written["tied"].items()}
    for name, tensor in tensors.items():
        module_name, _, own = name.rpartition(".")
        module = model.get_submodule(module_name)
        if own in module._parameters:
            module.register_parameter(own, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(own, tensor)
    kernels = {layer.name: len(layer.kernel) for layer in bundle.layers}
    for name, each in written["inputs"].items():
        quantize = _input_quantizer(parse(each["spec"]), each["grid"], -1 - kernels[name])
        model.get_submodule(name).register_forward_pre_hook(_hook(quantize), with_kwargs=True)
    return model


def _input_quantizer(spec: QuantSpec, grid: tuple[float, int, int, int] | None, axis: int) -> Callable[[Tensor], Tensor]:
    if grid is None:
        return ActivationQuantizer(spec, None, axis)
    return lambda x: to_grid(x, *grid)


def _hook(quantize: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (quantize(args[0]), *args[1:]), kwargs
        key, *_ = kwargs
        return args, {**kwargs, key: quantize(kwargs[key])}

    return hook


def _check_bits(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = [
        name
        for name in sorted(set(wanted) | set(found))
        if name not in found or name not in wanted or not torch.equal(wanted[name], found[name])
    ]
    if wrong:
        raise BitfrontError(f"{FILE} does not read back as it was written: {', '.join(wrong[:5])}.")


def _sizes(bundle: Bundle, stored: tuple[StoredLayer, ...], read: dict[str, Tensor], folder: Path) -> dict[str, float | str]:
    """Return the bytes of the file, and of what it holds as it was modelled: weights under the policy, all else as it is.

    Raises:
        BitfrontError: the tensors take over 1 % more than modelled (weights that are tied but quantized apart are stored twice).
    """
    held = Policy({each.layer.name: LayerPolicy(each.policy.weight) for each in stored})
    weights = {f"{each.layer.name}.weight" for each in stored}
    rest = sum(tensor.numel() * tensor.element_size() for name, tensor in read.items() if name not in weights)
    twice = sum(
        each.policy.weight.storage_bits(each.layer.weight_shape, each.layer.channel_axis) / 8
        for each in stored
        if each.layer.tied_to and f"{each.layer.name}.weight" in read
    )
    promised = weight_bytes(bundle.layers, held) + rest
    data = (folder / FILE).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    if len(data) - header > (1 + SLACK) * promised + twice + 64:
        raise BitfrontError(f"{FILE} holds {len(data) - header} bytes of tensors; {promised:.0f} were modelled.")
    return {
        "file_bytes": len(data),
        "header_bytes": header,
        "modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy),
        "other_bytes": rest,
        "tied_twice_bytes": twice,
    }
