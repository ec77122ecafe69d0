"""What calibration batches reach of a network: its layers and the other weights that take part in products, with mean counts."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.cutting import parts
from quant_core.network.forward import first_example, first_input, forward
from quant_core.network.parameters import Site, argument, input_path
from quant_core.network.products import Product, ProductRecorder

EXAMPLES = 128
"""Calibration examples that a trace reads at most; the batch in which they end is read whole."""

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of a call's input and output."""
MacsOf = Callable[[nn.Module, Shapes], int]


@dataclass
class Count:
    """How one weight is used.

    Attributes:
        calls: of its module, or products with it.
        macs, rows: multiply-accumulates and rows (tokens).
        axis: of a parameter, the one that products sum over (`Product.axis`); -1 where no product was seen.
        reachable: whether every call had an input that a hook can change.
        shapes: of the first call.
    """

    calls: int = 0
    macs: float = 0.0
    rows: float = 0.0
    axis: int = -1
    reachable: bool = True
    shapes: Shapes = ((), ())

    def add(self, other: "Count", times: int = 1) -> None:
        """Add the counts of a batch, `times` over."""
        self.calls, self.macs, self.rows = self.calls + other.calls, self.macs + times * other.macs, self.rows + times * other.rows
        self.axis = other.axis if self.axis == -1 else self.axis
        self.reachable = self.reachable and other.reachable
        self.shapes = self.shapes if any(self.shapes) else other.shapes


@dataclass
class Reach:
    """The weights that are reached.

    Attributes:
        counts: layer -> its counts, in the order in which they are first reached; `macs` and `rows` are means of one example.
        alone: layer -> its counts in the first example.
        batches, examples: how many (parts of) batches were run besides the first example; 0: the first example is all.
    """

    counts: dict[str, Count] = field(default_factory=dict)
    alone: dict[str, Count] = field(default_factory=dict)
    batches: int = 0
    examples: int = 0


def reach(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    sites: Iterable[Site],
    inputs: Any,
    batches: Iterable[Any],
    macs_of: MacsOf,
    at_once: int = 0,
) -> Reach:
    """Run the first example of `inputs`, then `batches` until `EXAMPLES` examples are read, and return what they reach.

    A layer that does for a batch what it does for one example (a table that depends on no input) counts once per example.

    Args:
        model: in eval mode.
        modules: layer -> module, the layers with a kind of their own.
        sites: the other parameters that may be layers.
        inputs: one batch.
        batches: further ones.
        macs_of: (module, shapes of a call) -> its multiply-accumulates.
        at_once: examples that run at once; 0: a batch.
    """
    sites = list(sites)
    alone = _run(model, modules, sites, first_example(inputs), macs_of)
    reached = Reach({name: Count() for name in alone}, alone)
    for batch in batches:
        for part in parts(batch, at_once):
            for name, count in _run(model, modules, sites, part.inputs, macs_of).items():
                first = alone.get(name)
                constant = first is not None and (count.macs, count.rows) == (first.macs, first.rows)
                reached.counts.setdefault(name, Count()).add(count, part.count if constant else 1)
            reached.batches, reached.examples = reached.batches + 1, reached.examples + part.count
        if reached.examples >= EXAMPLES:
            break
    if not reached.batches:
        reached.counts = dict(alone)
    for count in reached.counts.values() if reached.batches else ():
        count.macs, count.rows = count.macs / max(reached.examples, 1), count.rows / max(reached.examples, 1)
    for name, count in alone.items():
        reached.counts[name].axis = count.axis if reached.counts[name].axis == -1 else reached.counts[name].axis
    return reached


def _run(model: nn.Module, modules: Mapping[str, nn.Module], sites: Iterable[Site], inputs: Any, macs_of: MacsOf) -> dict[str, Count]:
    """Return the counts of one batch."""
    counts: dict[str, Count] = {}
    typed = [site for site in sites if site.by_type]
    others = {site.name: site.parameter for site in sites if not site.by_type}
    called: set[str] = set()

    def product(product: Product) -> None:
        if product.parameter in called:  # the layer's own
            return
        counts.setdefault(product.parameter, Count()).add(Count(1, product.macs, product.rows, product.axis, reachable=False))

    with ExitStack() as stack:
        for name, module in modules.items():
            before, after = _layer_hooks(name, counts, called, macs_of)
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        for site in typed:
            stack.callback(site.owner.register_forward_pre_hook(_typed_hook(site, counts), with_kwargs=True).remove)
        stack.enter_context(torch.no_grad())
        if others:
            stack.enter_context(ProductRecorder(others, model.parameters(), product))
        forward(model, inputs)
    return {name: count for name, count in counts.items() if count.calls}


def _layer_hooks(name: str, counts: dict[str, Count], called: set[str], macs_of: MacsOf) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the hooks before and after a layer; the first gives it its place in the order, and its name to `called`."""

    def before(_module: nn.Module, _args: Any) -> None:
        called.add(name)
        counts.setdefault(name, Count())

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        shapes = tuple(first_input(args, kwargs).shape), tuple(output.shape)
        counts[name].add(Count(1, macs_of(module, shapes), math.prod(shapes[1][:-1]), shapes=shapes))

    return before, after


def _typed_hook(site: Site, counts: dict[str, Count]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        rows = _rows(module, args, kwargs)
        path = input_path(module, site.key)
        reachable = path is not None and argument(module, args, kwargs, path) is not None
        if isinstance(module, nn.MultiheadAttention):
            query, key, value = (argument(module, args, kwargs, (index,)) for index in range(3))
            if site.key == "in_proj_weight" and (key is not query or value is not query):
                rows, reachable = (_tokens(query) + _tokens(key) + _tokens(value)) / 3, False
            elif site.key in ("k_proj_weight", "v_proj_weight"):
                rows = _tokens(key if site.key == "k_proj_weight" else value)
        elements = 0 if isinstance(module, nn.EmbeddingBag) else site.parameter.numel()
        counts.setdefault(site.name, Count()).add(Count(1, rows * elements, rows, 1, reachable))

    return hook


def _rows(module: nn.Module, args: Any, kwargs: Any) -> float:
    """Return how many rows (tokens, indices of a bag) a call gives a module."""
    source = args[0] if args else kwargs[next(iter(inspect.signature(module.forward).parameters))]
    data: Tensor = source if isinstance(source, Tensor) else source.data  # of a packed sequence, its tokens
    return float(data.numel()) if isinstance(module, nn.EmbeddingBag) else _tokens(data)


def _tokens(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else float(math.prod(tensor.shape[:-1]))
