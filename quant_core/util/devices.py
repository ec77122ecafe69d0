"""Where tensors live: the devices of this machine, the one that an experiment names, and objects moved from one to another."""

import copy
import io
import re
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TypeVar

import torch
from torch import nn

from quant_core.util.errors import InputError
from quant_core.util.text import given, listed

Value = TypeVar("Value")
CPU = torch.device("cpu")
PATTERN = r"auto|[a-z]+(:\d+)?"
"""The names of a device: `auto`, a type, or a type and a number."""
WORTHWHILE = 1_000_000
"""Parameters from which `auto` takes a GPU: a smaller network is evaluated faster on the CPU, and there alike on every machine."""


def available() -> tuple[str, ...]:
    """Return the names of the devices that torch can use here, the CPU first."""
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type != "cuda":
        names += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    return tuple(names)


def device_named(name: str, model: nn.Module | None = None) -> torch.device:
    """Return the device of a name; a type without a number is its first device.

    `auto` is where `model` is, if that is no CPU; else the first CUDA device where there is one and the model has at least a million
    parameters; else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    names = available()
    if name == "auto":
        return _best(names, model)
    if not re.fullmatch(PATTERN, name):
        raise InputError(f"device {given(name)}: give auto, cpu, or a type and a number as in cuda:1. Here are {listed(names)}.")
    numbered = name if name == "cpu" or ":" in name else f"{name}:0"
    if numbered not in names:
        raise InputError(f"device {given(name)} is not on this machine, or this build of torch cannot use it. Here are {listed(names)}.")
    return torch.device(numbered)


def _best(names: tuple[str, ...], model: nn.Module | None) -> torch.device:
    at = None if model is None else device_of(model)
    if at is not None and at.type not in ("cpu", "meta"):
        return at
    large = model is not None and sum(parameter.numel() for parameter in model.parameters()) >= WORTHWHILE
    return torch.device("cuda:0") if large and "cuda:0" in names else CPU


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer of a network; None where it has none."""
    for tensor in model.parameters():
        return tensor.device
    return next((buffer.device for buffer in model.buffers()), None)


def placed(model: nn.Module, device: torch.device | None) -> nn.Module:
    """Return the network on `device`: itself where it is there (or `device` is None), else a copy; the user's own stays where it is."""
    if device is None or device_of(model) in (None, device):
        return model
    return copy.deepcopy(model).to(device)


def precision(device: torch.device | None, dtype: str) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions compute in `dtype` (torch.autocast); float32 changes nothing."""
    kind = CPU.type if device is None else device.type
    return nullcontext() if dtype == "float32" else torch.autocast(kind, dtype=getattr(torch, dtype))


def shown(device: torch.device) -> str:
    """Return a device as a user knows it: `cuda:0 (NVIDIA H100)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def relocated(value: Value, device: torch.device | str, pickler: ModuleType) -> Value:
    """Return a copy of any object with every tensor in it on `device`; tensors that share memory still do.

    Args:
        value: what `pickler` can pickle.
        device: of the copy.
        pickler: `pickle`, or a module that writes what `pickle` reads.
    """
    content = io.BytesIO()
    torch.save(value, content, pickle_module=pickler)
    content.seek(0)
    moved: Value = torch.load(content, map_location=str(device), weights_only=False)
    return moved
