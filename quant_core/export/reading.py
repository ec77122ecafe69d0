"""The files of a safetensors export read back into a network: packed weights, biases, and quantizers of the inputs."""

import copy
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.export.packed_file import load_packed
from quant_core.network.fold import fold_batch_norm
from quant_core.network.forward import with_first_input
from quant_core.network.parameters import holder, hook_input
from quant_core.network.reference import uncompiled
from quant_core.ptq.activation import ActivationQuantizer, to_grid
from quant_core.ptq.kv_cache import KvCache
from quant_core.spec.kv_cache import require_kv
from quant_core.spec.quant_spec import FLOAT, SpecError, parse
from quant_core.transforms.online import LEFT, RIGHT, restore_rotations
from quant_core.util.devices import CPU, device_of
from quant_core.util.errors import InputError
from quant_core.util.reading import read_json
from quant_core.util.text import listed

WEIGHTS, ACTIVATIONS = "model.safetensors", "activations.json"
COUNTS = ".num_batches_tracked"
"""The step counters of batch norms; they are not stored, and eval mode does not use them."""


def load_quantized(folder: Path, network: nn.Module, example: Any) -> nn.Module:
    """Return a copy of `network` with the tensors of a safetensors export in `folder`, in eval mode; it quantizes its inputs.

    Args:
        folder: with `model.safetensors` and `activations.json`.
        network: as it was quantized; its values do not matter.
        example: one batch of model inputs.

    Raises:
        InputError: the files are damaged, or of another network.
    """
    network = uncompiled(network)
    tensors, grids = load_packed(folder / WEIGHTS), _grids(folder / ACTIVATIONS)
    tensors |= {name: tensors[owner] for name, owner in grids["tied"].items()}
    model = fold_batch_norm(network, example, share=True)  # every parameter is replaced
    if _unshared(model, tensors):  # training leaves batch norms in place
        model = copy.deepcopy(network).eval()
    if wrong := _unshared(model, tensors):
        raise InputError(f"{folder / WEIGHTS} is of another network: {listed(wrong, 5)} stand in one of the two only.")
    device = device_of(network) or CPU
    restore_rotations(model, tensors)
    for name, tensor in tensors.items():
        _put(model, name, tensor.to(device))
    for name, entry in grids["inputs"].items():
        owner, key = holder(model, name)
        axis = -1 - len(owner.kernel_size) if isinstance(owner, nn.modules.conv._ConvNd) else -1
        hook_input(owner, key, _hook(_input_quantizer(entry, axis)))
    KvCache(model, example).apply(grids["kv"])
    return model


def _unshared(model: nn.Module, tensors: Collection[str]) -> list[str]:
    """Return the names that a network and a file do not share; a file may have biases, and rotations of inputs, where layers have none."""
    expected = {name for name in model.state_dict() if not name.endswith(COUNTS)}
    slots = {f"{place}.{name}".lstrip(".") for place, module in model.named_modules() for name in module._parameters}
    rotations = {name for name in tensors if name.endswith((LEFT, RIGHT))}
    return sorted((expected - set(tensors)) | (set(tensors) - expected - slots - rotations))


def _grids(path: Path) -> dict[str, Any]:
    try:
        written: dict[str, Any] = read_json(path)
        for entry in written["inputs"].values():
            parse(str(entry["spec"]))
        kv = require_kv(parse(str(written.get("kv", FLOAT))))
        return {"tied": dict(written["tied"]), "inputs": written["inputs"], "kv": kv}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SpecError) as error:
        raise InputError(f"cannot read {path}: {type(error).__name__}: {error}. Give the folder of a safetensors export.") from error


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    place, _, leaf = name.rpartition(".")
    module = model.get_submodule(place)
    if leaf in module._parameters:
        module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        before = module._buffers.get(leaf)
        layout = torch.strided if before is None else before.layout
        module.register_buffer(leaf, tensor if layout == torch.strided else tensor.to_sparse(layout=layout))


def _input_quantizer(written: dict[str, Any], axis: int) -> Callable[[Tensor], Tensor]:
    if written["grid"] is None:
        return ActivationQuantizer(parse(written["spec"]), None, axis)
    return lambda x: to_grid(x, *written["grid"])


def _hook(quantize: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        return with_first_input(args, kwargs, quantize)

    return hook
