"""PyTorch as one of `search.exporters.runtimes.RUNTIMES`: programs of torch.export, run operation by operation as plain PyTorch runs them.

Quantized weights of linear layers are torchao's tensors. With int8 inputs of a range from calibration torchao multiplies integers
(`Int8Tensor`, torch._int_mm); with float inputs it makes floats of the codes in every call (`IntxUnpackedToInt8Tensor`): on x86 its wheel
has no other kernel. Embeddings hold their quantized values in float32. Inputs of layers with float weights pass through torch's own
fake quantizer.
"""

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.export.executorch.program import exported
from quant_core.export.kernels import Kernels, LayerKernel
from quant_core.export.replay import replayed
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.tagging import Flat, tensor_leaves
from quant_core.network.copies import sharing_copy
from quant_core.network.forward import first_example, with_first_input
from quant_core.network.parameters import layer_module, own_modules
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.quiet import quiet_library
from quant_core.util.text import first_fault
from search.exporters import torchao
from search.exporters.linear import layer_fault
from search.exporters.runtimes import Arrays, Runtime, no_seconds
from search.exporters.torchao_weights import torchao_tensor

_INT8 = "torchao.quantization.quantize_.workflows.int8.int8_tensor"
_PREFIX = "model."
"""Of the names of a network's parameters in a program, which is traced as `Flat` of it."""


def refusal(layer: Layer, policy: LayerPolicy) -> str:
    """Return why plain PyTorch with torchao does not run a layer so, or ""."""
    activation = policy.activation
    fixed = activation.format == "int" and activation.granularity == "tensor" and not activation.dynamic and activation.bits == 8
    if not activation.is_float and not fixed and layer.calls and layer.takes_activation:
        return f"torchao multiplies integers where inputs are int8:tensor, not {activation}; use int8:tensor or float"
    if policy.weight.is_float:
        return ""
    return layer_fault(layer, policy, "torchao", _fault)


def _fault(policy: LayerPolicy, inputs: int) -> str:
    weight = policy.weight
    if policy.activation.is_float or weight.is_float:
        return torchao.fault(LayerPolicy(weight), inputs)
    held = weight.format == "int" and weight.bits <= 8 and weight.granularity == "channel" and weight.symmetric
    return "" if held else f"torchao multiplies int8 inputs by symmetric int1 to int8 weights by channel, not by {weight}; use int8:channel"


def _write(network: Quantized, folder: Path) -> Path:
    """Write the program of a quantized network.

    Raises:
        InputError: torchao is not installed, does not hold a layer, or torch.export cannot represent the network.
    """
    modules = own_modules(network.base, [stored.layer for stored in network.stored])
    reasons = {stored.layer.name: refusal(stored.layer, stored.policy) for stored in network.stored}
    for stored in network.stored:
        if stored.encoded is not None and stored.layer.kind == "linear" and not isinstance(modules.get(stored.layer.name), nn.Linear):
            reasons[stored.layer.name] = "torchao quantizes torch's Linear, and another module reads this weight; use onnx"
    if faults := [f"layer {name!r}: {reason}" for name, reason in reasons.items() if reason]:
        raise InputError(f"{first_fault(faults)}.")
    if any(stored.encoded is not None for stored in network.stored) and find_spec("torchao") is None:
        raise InputError("the runtime torch needs torchao for quantized weights, which is not installed: pip install torchao.")
    with quiet_library(), torch.no_grad():
        model = sharing_copy(network.plain)
        ranks = _ranks(model, network)
        for stored in network.stored:
            _install(layer_module(model, stored.layer), stored, ranks.get(stored.layer.name, 2))
        return _saved(model, network.example, folder / "model.pt2")


def _install(module: nn.Module, stored: StoredLayer, rank: int) -> None:
    """Put torchao's tensor in the place of a weight, and a quantizer before a layer whose product does not round its inputs."""
    quantized = stored.encoded is not None and stored.layer.kind == "linear"
    if quantized:
        weight = _integers(stored, rank) if stored.grid is not None else torchao_tensor(stored)
        module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    elif stored.grid is not None:
        scale, zero, low, high = stored.grid

        def rounded(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            return with_first_input(args, kwargs, lambda x: torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high))

        module.register_forward_pre_hook(rounded, with_kwargs=True)


def _integers(stored: StoredLayer, rank: int) -> Any:
    """Return a weight whose products with inputs of `rank` axes torchao computes by integers."""
    encoded, grid, parts, names = stored.encoded, stored.grid, import_module(_INT8), import_module("torchao.quantization")
    assert encoded is not None
    assert encoded.scale is not None
    assert grid is not None
    zero = grid.zero_point - (128 if grid.quant_min == 0 else 0)
    kind = import_module("torchao.quantization.quant_primitives").MappingType
    return parts.Int8Tensor(
        (encoded.codes.to(torch.int16) + encoded.low).to(torch.int8),
        encoded.scale.to(torch.float32),
        [1, encoded.codes.shape[1]],
        torch.float32,
        zero_point=torch.zeros_like(encoded.scale, dtype=torch.int8),
        act_quant_scale=torch.full([1] * rank, grid.scale),
        act_quant_zero_point=torch.full([1] * rank, zero, dtype=torch.int8),
        act_quant_kwargs=parts.QuantizeTensorToInt8Kwargs(
            granularity=names.PerTensor(), mapping_type=kind.ASYMMETRIC if zero else kind.SYMMETRIC
        ),
    )


def _ranks(model: nn.Module, network: Quantized) -> dict[str, int]:
    """Return layer -> the number of axes of its inputs."""
    ranks: dict[str, int] = {}

    def seen(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            with_first_input(args, kwargs, lambda x: ranks.setdefault(name, x.dim()))

        return hook

    modules = own_modules(model, [stored.layer for stored in network.stored if stored.grid is not None])
    hooks = [module.register_forward_pre_hook(seen(name), with_kwargs=True) for name, module in modules.items()]
    example = first_example(network.example)
    Flat(model, example)(*tensor_leaves(example))
    for hook in hooks:
        hook.remove()
    return ranks


def _write_float(model: nn.Module, example: Any, folder: Path) -> Path:
    return _saved(model, example, folder / "float.pt2")


def _saved(model: nn.Module, example: Any, path: Path) -> Path:
    first = first_example(example)
    torch.export.save(exported(Flat(model, first).eval(), tensor_leaves(first)), path)
    return path


def _read(path: Path) -> Any:
    with quiet_library():
        if find_spec("torchao") is not None:
            import_module("torchao.quantization")
        return torch.export.load(path)


def _outputs(path: Path, arrays: Arrays) -> NDArray[Any]:
    with replayed(path, list(arrays), runtime="torch") as replay:
        outputs: NDArray[Any] = np.asarray(replay(tuple(torch.from_numpy(np.array(values)) for values in arrays.values())))
    return outputs


def _kernels(path: Path, names: Sequence[str]) -> Kernels:
    """Return int8 for layers whose weight torchao multiplies by integers, float32 for all others; embeddings are neither kind."""
    program = _read(path)
    state, places = program.state_dict, dict(program.graph_signature.inputs_to_parameters)
    looked_up = {places.get(node.args[0].name) for node in program.graph.nodes if "embedding" in str(node.target) and node.args}
    rows = []
    for name in names:
        weight = state.get(f"{_PREFIX}{name}.weight")
        if weight is not None:
            kind = "embedding" if f"{_PREFIX}{name}.weight" in looked_up else "linear" if weight.dim() == 2 else "conv"
            rows.append(LayerKernel(name, kind, "int8" if type(weight).__name__ == "Int8Tensor" else "float32"))
    return Kernels.of(rows)


def _stored_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    """Return the types of the quantized weights of a file with how many layers have them.

    Raises:
        BitfrontError: a layer has other values than the policy's.
    """
    state, counted, faults = _read(path).state_dict, Counter[str](), []
    for layer in stored:
        if layer.encoded is None:
            continue
        weight: Any = next((state[key] for owner in (layer.layer.name, layer.owner) if (key := f"{_PREFIX}{owner}.weight") in state), None)
        packed = hasattr(weight, "dequantize") and hasattr(weight, "qdata")
        values: Tensor | None = weight.dequantize() if packed else weight
        if values is None or not torch.equal(values, layer.weight):
            faults.append(f"layer {layer.layer.name!r} does not hold the values of {layer.policy.weight}")
        counted["int8" if packed else "float32"] += 1
    if faults:
        raise BitfrontError(f"{path.name}: {first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(counted.items())) or "float32"


def _library() -> None:
    """PyTorch is there with bitfront itself; torchao is needed where weights are quantized."""


TORCH = Runtime("torch", "torch", _library, _write, _write_float, _kernels, no_seconds, _outputs, _stored_types, refusal)
