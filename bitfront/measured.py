"""`MeasuredPolicy`: a policy with its figures, as `Sweep.best` and `evaluate` return it."""

import html
from collections.abc import Mapping
from dataclasses import dataclass

from quant_core.spec.policy import Policy
from search.records.units import label, scaled


@dataclass(frozen=True, eq=False, repr=False)
class MeasuredPolicy:
    """A policy and what was measured of it, beside the float network.

    Attributes:
        policy: how every layer is quantized.
        metrics: figures by name, in SI units: `accuracy_valid`, `accuracy_test`, `accuracy_float_valid`, `accuracy_float_test` in [0, 1],
            `weight_bytes`, `latency_s`, ...; one that is not known is absent.
        trial: the number of its trial in the sweep; -1 outside a sweep.
        note: why it was chosen.
    """

    policy: Policy
    metrics: Mapping[str, float]
    trial: int = -1
    note: str = ""

    @property
    def id(self) -> str:
        """The policy's id."""
        return self.policy.id

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __repr__(self) -> str:
        measured = [name for name in self.metrics if name.endswith(("_valid", "_test")) and not name.startswith("loss")]
        measured = [name for name in measured if not name.endswith("_float_test")]
        shown = (*sorted(measured, key=lambda name: not name.endswith("_float_valid")), "weight_bytes", "latency_s")
        figures = [f"{label(name)} {scaled(name, self.metrics[name]):.4g}" for name in shown if name in self.metrics]
        return f"MeasuredPolicy({self.id}: {', '.join(figures)}{f'; {self.note}' if self.note else ''})"

    def _repr_html_(self) -> str:
        """Return the figures and the layers as tables, for a notebook."""
        figures = "".join(
            f"<tr><th>{html.escape(label(name))}</th><td>{scaled(name, value):.6g}</td></tr>" for name, value in self.metrics.items()
        )
        layers = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(layer.weight))}</td><td>{html.escape(str(layer.activation))}</td></tr>"
            for name, layer in self.policy.items()
        )
        head = f"<b>policy {self.id}</b>{f': {html.escape(self.note)}' if self.note else ''}"
        return (
            f"<div>{head}<table>{figures}</table>"
            f"<table><thead><tr><th>layer</th><th>weight</th><th>activation</th></tr></thead><tbody>{layers}</tbody></table></div>"
        )
