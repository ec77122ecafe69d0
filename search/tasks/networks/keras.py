"""Networks that Keras saved, as torch modules: a list of nodes, and weights in torch layout (channels first, kernels [out, in, h, w])."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Node = Mapping[str, Any]
Weights = Mapping[str, Tensor]

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D")
_FIELDS = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class KerasGraph(nn.Module):
    """The graph of a Keras network; its layers keep their names. A closing softmax is left out: the outputs are logits.

    Args:
        nodes: in order of execution; each has op, name, inputs and what its op needs (the form of ../shared/data/mlperf_tiny/*.json).
        weights: `<layer name>.<Keras field>` -> values.
    """

    def __init__(self, nodes: Sequence[Node], weights: Weights) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.layers = nn.ModuleDict()
        for node in nodes:
            held = {name.partition(".")[2]: value for name, value in weights.items() if name.partition(".")[0] == node["name"]}
            module = _module(node, {_FIELDS[field]: value for field, value in held.items()})
            if module is not None:
                self.layers[node["name"]] = module

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [N, C, H, W] or [N, features] to the outputs of the last node."""
        values: dict[str, Tensor] = {}
        for node in self.nodes:
            inputs = [values[name] for name in node["inputs"]]
            values[node["name"]] = self._step(node, inputs) if inputs else x
        return values[self.nodes[-1]["name"]]

    def _step(self, node: Node, inputs: list[Tensor]) -> Tensor:
        value = inputs[0]
        if node["op"] == "Add":
            return value + inputs[1]
        if node["op"] == "Flatten":  # every Flatten here follows a pooling to 1x1, so the order of channels and pixels does not matter
            return value.flatten(1)
        if node["op"] in _CONVOLUTIONS and node["padding"] == "same":
            value = pad_same(value, node["kernel_size"], node["strides"])
        result: Tensor = self.layers[node["name"]](value)
        return result


def pad_same(x: Tensor, kernel: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Pad [N, C, H, W] as TensorFlow's "same" does: ceil(size / stride) outputs; an odd pixel goes below and to the right."""
    pads: list[int] = []
    for size, width, step in list(zip(x.shape[2:], kernel, strides, strict=True))[::-1]:
        total = max(((size - 1) // step) * step + width - size, 0)
        pads += [total // 2, total - total // 2]
    return nn.functional.pad(x, pads)


def _module(node: Node, state: dict[str, Tensor]) -> nn.Module | None:
    """Return the module of a node with its weights, or None for a node that has none (input, addition, flattening)."""
    weight = state.get("weight", torch.empty(0))
    module: nn.Module
    match node["op"]:
        case "Conv2D" | "DepthwiseConv2D":
            groups = weight.shape[0] if node["op"] == "DepthwiseConv2D" else 1
            module = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], weight.shape[2:], tuple(node["strides"]), groups=groups)  # type: ignore[arg-type]
        case "Dense":
            module = nn.Linear(weight.shape[1], weight.shape[0])
        case "BatchNormalization":
            module = (nn.BatchNorm1d if node["features"] == "flat" else nn.BatchNorm2d)(len(weight), eps=node["epsilon"])
            state = {**state, "num_batches_tracked": torch.tensor(0)}
        case "AveragePooling2D":
            module = nn.AvgPool2d(tuple(node["pool_size"]), tuple(node["strides"]))
        case "Activation":
            module = nn.ReLU()
        case _:
            return None
    module.load_state_dict(state)
    return module
