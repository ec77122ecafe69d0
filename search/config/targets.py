"""Runtimes that `bitfront compress --for` takes beside devices: the space that they run, the device that prices it, and the formats."""

from collections.abc import Mapping
from dataclasses import dataclass

from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import listed

AUTO = "auto"
"""For choices: those that the device runs, layer by layer (`search.sweeps.auto_space`)."""


@dataclass(frozen=True)
class Target:
    """A runtime or a device.

    Attributes:
        device: that prices a policy.
        formats: that are exported.
        weight, activation: choices of every layer; "auto": what the device runs.
        bias_correction: layers without a bias may be given one.
        runtime: it is one of this machine, whose latency is measured; otherwise a device, whose latency is modelled.
        objectives: what is minimized; the second one is what the chosen policy has least of.
    """

    device: str
    formats: tuple[str, ...]
    weight: str | tuple[str, ...] = AUTO
    activation: str | tuple[str, ...] = AUTO
    objectives: tuple[str, str] = ("error", "weight_bytes")
    runtime: bool = True
    bias_correction: bool = True


TARGETS: Mapping[str, Target] = {
    "onnxruntime": Target("generic-cpu", ("onnx",), "int8:channel:mse", ("int8:tensor:mse", "float"), ("error", "latency_s")),
    "onnxruntime-weights": Target("counts", ("onnx-matmulnbits",), ("int4:group32:mse:gptq", "int8:group32:mse", "float"), "float"),
    "openvino": Target("counts", ("openvino",), ("int4:channel:mse:gptq", "int8:channel:mse"), "int8:tensor:mse"),
    "openvino-weights": Target("counts", ("openvino",), ("int4:channel:mse:gptq", "int8:channel:mse", "float"), "float"),
    "gguf": Target(
        "counts",
        ("gguf",),
        ("int4:group32:mse:gptq", "int5:group32:mse", "int8:group32:mse", "float"),
        "float",
        bias_correction=False,
    ),
    "c-array": Target("counts", ("c-array",), tuple(f"int{bits}:channel:mse" for bits in (2, 4, 8)), "int8:tensor:mse"),
    "safetensors": Target("counts", ("safetensors",), tuple(f"int{bits}:channel:mse" for bits in (2, 3, 4, 5, 6, 8)), "float"),
}
"""Name of a runtime -> its target."""


def target_of(name: str) -> Target:
    """Return the target that a name of `TARGETS`, a device's name or a path of a device file gives.

    Raises:
        InputError: unknown name.
    """
    from hw_models.loading import device_names

    if name in TARGETS:
        return TARGETS[name]
    if name in device_names() or name.endswith(".toml"):
        return Target(name, ("safetensors", "onnx"), runtime=False)
    hint = suggest(name, [*TARGETS, *device_names()])
    raise InputError(f"--for {name!r} given; runtimes: {listed(TARGETS)}; devices: {listed(device_names(), 60)}.{hint}")
