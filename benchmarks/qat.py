"""What a step of quantization-aware training costs: ours, torch.ao's and brevitas' beside a float step of the same network and batch.

    python -m benchmarks.qat --batch 64 --steps 20

A step is forward, backward and SGD. The kinds take turns, one step each; the table has the median CPU time of the process (one thread)
and its ratio to the float step. Peers that are not installed are left out. With `--device cuda` steps run there, the time is that of the
wall clock up to the end of the device's work, and torch.ao, whose kernels are for the CPU, is left out.
"""

import argparse
import copy
import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from quant_core.network.fold import fold_batch_norm
from quant_core.network.statistics import collect
from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.qat.optimizers import make_optimizer
from quant_core.qat.prepare import constrain, prepare
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.devices import CPU, device_named, shown
from search.tasks.networks.digits import DigitsNet
from search.tasks.networks.small import dscnn, mobilenetv2, resnet8

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "digits": (DigitsNet, 8),
    "resnet8": (lambda: resnet8(1, 10), 28),
    "mobilenetv2": (lambda: mobilenetv2(1, 10), 28),
    "dscnn": (lambda: dscnn(1, 10), 28),
}
OURS = {
    "ste W8A8": ("ste", "weight=int8:channel,activation=int8:tensor:ema"),
    "ste W4A4 mse": ("ste", "weight=int4:channel:mse,activation=int4:tensor:mse"),
    "lsq W4A4": ("lsq", "weight=int4:channel,activation=int4:tensor"),
    "pact W4A4": ("pact", "weight=int4:channel,activation=int4:tensor"),
    "dorefa W4A4": ("dorefa", "weight=int4:channel,activation=int4:tensor"),
    "mad W4A4 octav": ("mad", "weight=int4:channel:octav,activation=int4:tensor"),
    "ttq A8": ("ttq", "weight=ternary:ttq:channel,activation=int8:tensor:ema"),
    "binary A8": ("binary", "weight=binary:channel,activation=int8:tensor:ema"),
    "codebook A8": ("codebook", "weight=kmeans4:tensor,activation=int8:tensor:ema"),
}


@dataclass
class Stepper:
    """A network, its optimiser, and one batch: `step` trains it by one step."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    ours: bool = False

    def __post_init__(self) -> None:
        self.model.train()
        self.optimizer = make_optimizer(self.model, QatConfig(lr=1e-4))

    def step(self) -> float:
        """Take one step; return its CPU seconds, on a GPU those of the wall clock."""
        clock = time.process_time if self.inputs.device == CPU else time.perf_counter
        start = clock()
        with parametrize.cached():
            loss = F.cross_entropy(self.model(self.inputs), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.ours:
            constrain(self.model)
        if self.inputs.device != CPU:
            torch.accelerator.synchronize(self.inputs.device)
        return clock() - start


def ours(model: nn.Module, inputs: Tensor, method: str, text: str) -> nn.Module:
    """Return the network prepared by us, every layer by the same policy."""
    layers = trace(model, inputs)
    statistics_of = collect(model.eval(), layers, [inputs])
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return prepare(model, policy, method, statistics=statistics_of)


def torch_ao(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Return the network prepared by torch.ao's FX mode: 8-bit per-channel weights, per-tensor moving-average inputs, batch norm fused."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    prepared: nn.Module = prepare_qat_fx(copy.deepcopy(model).train(), get_default_qat_qconfig_mapping("x86"), (inputs,))
    return prepared


def brevitas(model: nn.Module, _inputs: Tensor) -> nn.Module:
    """Return the network with brevitas layers: 8-bit per-channel weights, per-tensor inputs whose scales are learned."""
    qnn, kinds = importlib.import_module("brevitas.nn"), importlib.import_module("brevitas.quant")
    quantizers = {"weight_quant": kinds.Int8WeightPerChannelFloat, "input_quant": kinds.Int8ActPerTensorFloat}
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                made = qnn.QuantConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    stride=child.stride,
                    padding=child.padding,
                    groups=child.groups,
                    bias=child.bias is not None,
                    **quantizers,
                )
                setattr(parent, name, made)
            elif isinstance(child, nn.Linear):
                setattr(parent, name, qnn.QuantLinear(child.in_features, child.out_features, child.bias is not None, **quantizers))
    return model


def steppers(build: Callable[[], nn.Module], size: int, batch: int, device: torch.device = CPU) -> dict[str, Stepper]:
    """Return the kinds of step of one network, by name."""
    torch.manual_seed(0)
    model, inputs, targets = build(), torch.rand(batch, 1, size, size), torch.randint(0, 10, (batch,))
    with torch.no_grad():
        for _ in range(50):  # running statistics of these inputs: else the calibrated ranges fit nothing and every gradient is 0
            model(inputs)
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    kinds = {"float": Stepper(copy.deepcopy(model), inputs, targets)}
    for name, (method, text) in OURS.items():
        kinds[name] = Stepper(ours(model, inputs, method, text), inputs, targets, ours=True)
    kinds["ste W8A8, folded"] = Stepper(ours(fold_batch_norm(model, inputs), inputs, *OURS["ste W8A8"]), inputs, targets, ours=True)
    for name, make in (("torch.ao W8A8", torch_ao), ("brevitas W8A8", brevitas)):
        if make is torch_ao and device != CPU:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kinds[name] = Stepper(make(model, inputs).to(device), inputs, targets)
        except ImportError as error:
            print(f"{name} left out: {error}")
    return kinds


def main() -> None:
    """Print the table of every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps")
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for network in arguments.networks.split(","):
        kinds = steppers(*NETWORKS[network], arguments.batch, device)
        for _ in range(3):
            for stepper in kinds.values():
                stepper.step()
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(arguments.steps):
            for name, stepper in kinds.items():
                seconds[name].append(stepper.step())
        base = statistics.median(seconds["float"])
        clock = "CPU ms" if device == CPU else f"ms on {shown(device)}"
        print(f"\n| {network}, batch {arguments.batch} | {clock} per step | ratio |\n|---|---|---|")
        for name, values in seconds.items():
            print(f"| {name} | {1e3 * statistics.median(values):.1f} | {statistics.median(values) / base:.2f} |")


if __name__ == "__main__":
    main()
