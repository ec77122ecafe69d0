"""A first task for a network: a Python file that runs as it stands, on noise of the shape that the network takes."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.forward import call
from quant_core.network.outputs import judged_output
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import load

SIZES = {True: (224, 384, 64, 32), False: (32, 28, 64, 224)}
"""Sides of images to try: for networks whose first convolution has a stride, and for others."""


@dataclass(frozen=True)
class Start:
    """What is known of a network.

    Attributes:
        source: its name, "package.module:attribute".
        called: the attribute is a function that returns the network.
        kind: class of the network.
        parameters: their number.
        inputs: Python text that makes a batch of inputs; "" where no input was taken.
        logits: the outputs have the form of logits of classes.
        part: Python text behind the outputs that gives the judged one, as `["logits"]`.
    """

    source: str
    called: bool
    kind: str
    parameters: int
    inputs: str
    logits: bool
    part: str = ""


def looked_at(source: str) -> Start:
    """Return the class, size and inputs of the network that a name gives.

    Raises:
        InputError: there is no such name, or it gives no network without arguments.
    """
    held = load(source)
    called = not isinstance(held, nn.Module)
    if called:
        if not callable(held):
            raise InputError(f"--from {source}: a {type(held).__name__}; a torch.nn.Module, or a function that returns one, is needed.")
        try:
            held = held()
        except Exception as error:
            text = f"calling it without arguments failed with {type(error).__name__}: {error}"
            raise InputError(f"--from {source}: {text}; write a function that needs none.") from error
    if not isinstance(held, nn.Module):
        raise InputError(f"--from {source}: it gave a {type(held).__name__}; a torch.nn.Module is needed.")
    network = held.eval()
    weights = sum(parameter.numel() for parameter in network.parameters())
    return Start(source, called, type(network).__name__, weights, *_taken(network))


def task_source(start: Start) -> str:
    """Return the text of the task file."""
    module, _, attribute = start.source.partition(":")
    network = f"{attribute}()" if start.called else attribute
    inputs = start.inputs or 'NotImplementedError("write what the network takes: one tensor, a tuple or a dict of arguments")'
    made = f"[{inputs} for _ in range(count)]" if start.inputs else ""
    body = f"    torch.manual_seed(seed)\n    return {made}" if made else f"    raise {inputs}"
    metrics = '["kld", "flips"]' if start.logits else '"mae"'
    labels = "" if start.logits else "\n    # Until there are targets, the float network's outputs stand for them."
    splits = "calib, calib, batches(8, 1), batches(8, 2)"
    if not start.logits and start.inputs:
        splits = "*(labelled(network, part) for part in (calib, calib, batches(8, 1), batches(8, 2)))"
    stars = "**" if start.inputs.startswith("{") else ""
    helper = _LABELLED.format(stars=stars, part=start.part) if not start.logits and start.inputs else ""
    return _FILE.format(
        source=start.source,
        kind=start.kind,
        parameters=f"{start.parameters:,}",
        module=module,
        attribute=attribute,
        network=network,
        body=body,
        helper=helper,
        metrics=metrics,
        labels=labels,
        splits=splits,
    )


_FILE = '''"""A bitfront task for {source}: {kind}, {parameters} parameters.

It runs as it stands, on noise: put your data into `batches`.
"""

from typing import Any

import bitfront
import torch

from {module} import {attribute}


def batches(count: int, seed: int) -> list[Any]:
    """Return batches: inputs now; with targets, (inputs, targets)."""
{body}

{helper}
def task() -> bitfront.Task:
    """Return the trained network, its splits and its metrics; with labels: "accuracy", "perplexity", ... (docs/own-task.md)."""
    network = {network}.eval()
    calib = batches(4, 0){labels}
    return bitfront.Task(network, {splits}, metrics={metrics})
'''
_LABELLED = '''
def labelled(network: torch.nn.Module, inputs: list[Any]) -> list[Any]:
    """Return (inputs, outputs of the float network)."""
    with torch.no_grad():
        return [(part, network({stars}part){part}) for part in inputs]

'''


def _taken(network: nn.Module) -> tuple[str, bool, str]:
    """Return the text of the first inputs that the network takes ("": none), whether its outputs look like logits, and their `part`."""
    for text in _candidates(network):
        inputs = _made(text)
        try:
            with torch.inference_mode():
                whole = call(network, inputs)
                outputs = judged_output(network, whole)
        except (BitfrontError, ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        tabular = outputs.dim() == 2 or (outputs.dim() == 3 and "randint" in text)
        return text, tabular and outputs.shape[-1] > 1, _place(whole, outputs)
    return "", True, ""


def _place(outputs: Any, judged: Tensor) -> str:
    """Return the text that takes `judged` out of the outputs of a network."""
    if isinstance(outputs, Mapping):
        pairs = [(f"[{name!r}]", value) for name, value in outputs.items()]
    elif isinstance(outputs, tuple | list):
        pairs = [(f"[{number}]", value) for number, value in enumerate(outputs)]
    elif is_dataclass(outputs):
        pairs = [(f".{field.name}", getattr(outputs, field.name)) for field in fields(outputs)]
    else:
        pairs = []
    inner = ((text, text if value is judged else text + _place(value, judged), value) for text, value in pairs)
    return next((path for text, path, value in inner if value is judged or path != text), "")


def _made(text: str) -> Any:
    """Return the inputs that a text of `_candidates` makes."""
    inputs: Any = eval(text, {"__builtins__": {}, "torch": torch})  # a text of ours, only numbers are filled in
    return inputs


def _candidates(network: nn.Module) -> Iterator[str]:
    """Yield texts of inputs, by the first layer with weights: of images, tokens, series or rows."""
    first = next((module for module in network.modules() if isinstance(module, _LAYERS)), None)
    names: Mapping[str, Any] = inspect.signature(network.forward).parameters
    for text in _shapes(first) if first is not None else ():
        keyword = next((name for name in ("input_ids", "pixel_values") if name in names), "")
        yield f'{{"{keyword}": {text}}}' if keyword else text


_LAYERS = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.RNNBase)


def _shapes(first: nn.Module) -> Iterator[str]:
    if isinstance(first, nn.Embedding):
        yield f"torch.randint(0, {first.num_embeddings}, (8, 32))"
    elif isinstance(first, nn.Conv2d):
        for size in SIZES[max(first.stride) > 1]:
            yield f"torch.randn(8, {first.in_channels}, {size}, {size})"
    elif isinstance(first, nn.Conv1d):
        for size in (128, 1024, 16000):
            yield f"torch.randn(8, {first.in_channels}, {size})"
    elif isinstance(first, nn.Conv3d):
        yield f"torch.randn(4, {first.in_channels}, 16, 32, 32)"
    elif isinstance(first, nn.Linear):
        yield f"torch.randn(64, {first.in_features})"
        yield f"torch.randn(8, 16, {first.in_features})"
    elif isinstance(first, nn.RNNBase):
        yield f"torch.randn(8, 16, {first.input_size})"
