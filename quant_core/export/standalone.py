"""A quantized network that stands alone: it needs neither the engine nor the calibration data that it was made with."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from quant_core.export.stored import post_training
from quant_core.network.forward import with_first_input
from quant_core.network.parameters import layer_module
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.kv_cache import KvCache
from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy
from quant_core.util.devices import CPU, device_of, placed


class QuantizeInput:
    """A forward pre-hook that quantizes the first input of a layer; unlike a closure it can be pickled and copied."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        self.quantizer = quantizer

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments with the first one quantized."""
        return with_first_input(args, kwargs, self._quantized)

    def _quantized(self, inputs: Tensor) -> Tensor:
        return self.quantizer(inputs)


def standalone(engine: PostTraining, network: nn.Module, layers: Sequence[Layer], policy: Policy, example: Any) -> nn.Module:
    """Return `network` quantized by `policy` as `engine`, which was made of it, simulates it; nothing is shared with either.

    It is where `network` is, wherever the engine computes.

    Args:
        engine: the post-training engine; it keeps the policy applied.
        network: the float network that the engine was made of.
        layers: its layers.
        policy: how every layer is quantized.
        example: one batch of model inputs.

    Raises:
        BitfrontError: codes do not decode to the weight that the simulation uses.
    """
    there = placed(network, device_of(engine.model))
    model = copy.deepcopy(post_training(engine, there, layers, policy, example).plain).eval().requires_grad_(False)
    model.to(device_of(network) or CPU)
    for layer in layers:
        spec = policy[layer.name].activation
        if layer.name in engine.statistics and not spec.is_float:
            quantizer = ActivationQuantizer(spec, engine.statistics[layer.name], -1 - len(layer.kernel))
            layer_module(model, layer).register_forward_pre_hook(QuantizeInput(quantizer), with_kwargs=True)
    KvCache(model, example).apply(policy.kv)
    return model
