"""`model.safetensors` and `activations.json`: every weight packed at its bits, biases, and the grids of the inputs."""

import json
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from quant_core.codecs import Encoded
from quant_core.export.packed_file import load_packed, save_packed
from quant_core.export.reading import ACTIVATIONS, COUNTS, WEIGHTS, load_quantized
from quant_core.export.stored import StoredLayer
from quant_core.network.forward import forward
from quant_core.network.parameters import state_name
from quant_core.network.recorder import stored_at
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.spec.size import held_bytes, weight_bytes
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_text
from quant_core.util.text import listed
from search.exporters import Bundle, Exported
from search.exporters.verify import compare

SLACK = 0.01


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write both files, read them into a fresh copy of the network and run it on the test split: it gives the same bits.

    Raises:
        BitfrontError: the network that is read back differs, or the file takes more bytes than modelled.
    """
    stored = bundle.network.stored
    state = _state(bundle.network.plain)
    _save(bundle, stored, state, folder)
    again = load_quantized(folder, bundle.task.model, bundle.network.example)
    _check_bits(state, _state(again))
    comparison = compare(bundle, lambda inputs: forward(again, inputs))
    if comparison.difference:
        raise BitfrontError(
            f"the network read back from {WEIGHTS} gives outputs that differ by up to {comparison.difference:.3g}; none may differ."
        )
    return Exported((WEIGHTS, ACTIVATIONS), comparison.checks | _sizes(bundle, stored, folder))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network, the sparse ones dense: the format has no others."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTS)}
    return {name: tensor if tensor.layout == torch.strided else tensor.to_dense() for name, tensor in tensors.items()}


def _save(bundle: Bundle, stored: tuple[StoredLayer, ...], state: dict[str, Tensor], folder: Path) -> None:
    packed: dict[str, tuple[Tensor, QuantSpec, int]] = {}
    encoded: dict[str, Encoded] = {}
    tied: dict[str, str] = {}
    stacks: dict[str, tuple[tuple[int, ...], int]] = {}
    grids = {}
    for layer in stored:
        name, owner = (state_name(bundle.network.base, place) for place in (layer.layer.name, layer.owner))
        if layer.encoded is not None:
            packed[name], encoded[name] = (layer.weight, layer.policy.weight, layer.layer.channel_axis), layer.encoded
        if layer.layer.stack_shape:
            stacks[name] = layer.layer.stack_shape, layer.layer.contraction_axis
        if name != owner and torch.equal(state[name], state[owner]):
            tied[name] = owner
            packed.pop(name, None)
        if not layer.policy.activation.is_float and layer.layer.calls and layer.layer.takes_activation:
            grids[layer.layer.name] = {"spec": str(layer.policy.activation), "grid": layer.grid}
    tied |= _further_names(state, packed.keys() | tied.keys())
    plain = {name: tensor for name, tensor in state.items() if name not in packed and name not in tied}
    notes = {"policy": bundle.policy.id} | ({"tied": json.dumps(tied)} if tied else {})
    save_packed(folder / WEIGHTS, packed, plain=plain, metadata=notes, encoded=encoded, stacks=stacks)
    cached = {} if bundle.policy.kv.is_float else {"kv": str(bundle.policy.kv)}
    write_text(folder / ACTIVATIONS, json.dumps({"tied": tied, "inputs": grids} | cached, indent=1) + "\n")


def _further_names(state: dict[str, Tensor], named: Collection[str]) -> dict[str, str]:
    """Return name -> first name of the tensors that stand in the network under several names: modules that are used in several places."""
    first = {(stored_at(state[name]), state[name].shape): name for name in reversed(sorted(named))}
    others: dict[str, str] = {}
    for name, tensor in state.items():
        owner = first.setdefault((stored_at(tensor), tensor.shape), name)
        if name not in named and owner != name:
            others[name] = owner
    return others


def _check_bits(written: dict[str, Tensor], read: dict[str, Tensor]) -> None:
    wrong = [
        name
        for name in sorted(set(written) | set(read))
        if name not in read or name not in written or not torch.equal(written[name], read[name])
    ]
    if wrong:
        raise BitfrontError(f"{WEIGHTS} does not read back as it was written: {listed(wrong[:5])}.")


def _sizes(bundle: Bundle, stored: tuple[StoredLayer, ...], folder: Path) -> dict[str, float | str]:
    """Return the bytes of the file, and the modelled bytes of its contents: weights under the policy, all else as it is.

    Raises:
        BitfrontError: the tensors take over 1 % more than modelled (weights that are tied but quantized apart are stored twice).
    """
    read = load_packed(folder / WEIGHTS)
    held = Policy({layer.layer.name: LayerPolicy(layer.policy.weight) for layer in stored})
    weights = {state_name(bundle.network.base, layer.layer.name) for layer in stored}
    rest = sum(tensor.numel() * tensor.element_size() for name, tensor in read.items() if name not in weights)
    twice = sum(
        layer.policy.weight.storage_bits(layer.layer.weight_shape, layer.layer.channel_axis) / 8
        for layer in stored
        if layer.layer.tied_to and state_name(bundle.network.base, layer.layer.name) in read
    )
    promised = weight_bytes(bundle.layers, held) - held_bytes(bundle.layers) + rest  # the rest holds them
    data = (folder / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    if len(data) - header > (1 + SLACK) * promised + twice + 64:
        raise BitfrontError(f"{WEIGHTS} holds {len(data) - header} bytes of tensors; {promised:.0f} were modelled.")
    return {
        "file_bytes": len(data),
        "header_bytes": header,
        "modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy),
        "other_bytes": rest,
        "tied_twice_bytes": twice,
    }
