"""How much of a network's parameters a policy can cover, and what stays in float, by name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from quant_core.network.parameters import weight_of
from quant_core.network.recorder import stored_at
from quant_core.spec.layer import Layer
from quant_core.util.text import listed

SHOWN = 4


@dataclass(frozen=True)
class Coverage:
    """The parameters of a network in float32, each stored one counted once; buffers are not counted.

    Attributes:
        total_bytes: of all parameters.
        covered_bytes: of the weights that a policy may quantize.
        left: norms, biases, or the name of another parameter -> its bytes, which stay in float; the largest first.
        uncounted_bytes: the part of `left` that is not in `quant_core.spec.size.weight_bytes`: all but the weights of layers and what
            layers hold beside them.
    """

    total_bytes: float
    covered_bytes: float
    left: Mapping[str, float]
    uncounted_bytes: float

    @property
    def share(self) -> float:
        """The covered share of the parameters."""
        return self.covered_bytes / self.total_bytes if self.total_bytes else 0.0

    def __str__(self) -> str:
        left = sum(self.left.values())
        rest = f"; left in float: {_size(left)} ({listed(self.left, SHOWN)})" if left else ""
        return f"the policy covers {100 * self.share:.1f} % of {_size(self.total_bytes)} of float parameters{rest}"


def coverage(model: nn.Module, layers: Sequence[Layer], covered: Collection[str]) -> Coverage:
    """Return the coverage of a network by policies.

    Args:
        model: as it was traced, before batch norms are folded.
        layers: of its trace.
        covered: names of the layers whose weight has a choice other than float.
    """
    weights = {stored_at(weight_of(model, layer.name)): layer for layer in layers if not layer.tied_to}
    total = counted = 0.0
    left: dict[str, float] = {}
    seen: set[tuple[int, int, int]] = set()
    for place, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is None or stored_at(parameter) in seen:
                continue
            seen.add(stored_at(parameter))
            size = (8.0 if parameter.is_complex() else 4.0) * parameter.numel()
            total += size
            layer = weights.get(stored_at(parameter))
            if layer is None or layer.name not in covered:
                name = _group(place, key, module)
                left[name] = left.get(name, 0.0) + size
            counted += 0.0 if layer is None else size
    held = sum(4.0 * layer.held_elements for layer in layers)
    largest = dict(sorted(left.items(), key=lambda item: -item[1]))
    return Coverage(total, total - sum(left.values()), largest, max(total - counted - held, 0.0))


def _group(place: str, key: str, module: nn.Module) -> str:
    """Return under which name a parameter is listed."""
    if "norm" in type(module).__name__.lower():
        return "norms"
    return "biases" if "bias" in key else f"{place}.{key}".lstrip(".")


def _size(size: float) -> str:
    unit, divisor = next((pair for pair in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= pair[1]), ("B", 1.0))
    return f"{size / divisor:.3g} {unit}"
