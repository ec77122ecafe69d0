"""`MetricInfo`: name, direction and unit of a metric, as plain data that a sweep's record keeps. Free of torch."""

import math
from dataclasses import dataclass

from quant_core.util.errors import BitfrontError

_SLACK = 1e-6
"""Rounding above the best value that is taken for the best value."""


@dataclass(frozen=True)
class MetricInfo:
    """A metric as it is shown, and its error, which a search minimizes.

    Attributes:
        name: of the figure in a record.
        higher: more is better.
        unit: as people write it: "%" (of fractions, which records hold), "dB", "nats"; "" for plain numbers.
        best: the value that nothing surpasses; the error is the distance to it. None: a ratio in dB without a best value (PSNR), whose
            error is 10^(-value/10), the mean squared error relative to the squared range.
        worst: the error beyond which a policy adds nothing to the hypervolume; 0: four times the float network's.
    """

    name: str
    higher: bool = True
    unit: str = ""
    best: float | None = 1.0
    worst: float = 0.0

    def error(self, value: float) -> float:
        """Return the distance from the best value, at least 0.

        Raises:
            BitfrontError: the value is better than the best one.
        """
        if self.best is None:
            return math.pow(10.0, -value / 10.0)
        distance = self.best - value if self.higher else value - self.best
        if distance < -_SLACK:
            beyond = "above" if self.higher else "below"
            raise BitfrontError(
                f"metric {self.name!r} is {value:.6g}, {beyond} its best value {self.best:g}; say what is best: "
                f"bitfront.metric(..., best=VALUE, higher={self.higher})."
            )
        return max(0.0, distance)

    def value(self, error: float) -> float:
        """Return the value that has this error: the inverse of `error`."""
        if self.best is None:
            return -10.0 * math.log10(error) if error > 0 else math.inf
        return self.best - error if self.higher else self.best + error

    @property
    def formula(self) -> str:
        """The error as text."""
        if self.best is None:
            return f"10^(-{self.name}/10)"
        if self.higher:
            return f"{self.best:g} - {self.name}"
        return f"{self.name} - {self.best:g}" if self.best else self.name

    @property
    def point(self) -> float:
        """What people call a point: a hundredth of what lies between 0 and 1 (accuracy, correlations), else the metric's unit."""
        return 0.01 if self.unit == "%" or (self.unit == "" and self.best == self.worst == 1.0) else 1.0

    @property
    def arrow(self) -> str:
        """The better direction as a sign."""
        return "↑" if self.higher else "↓"


def reference_error(info: MetricInfo, float_error: float) -> float:
    """Return the reference point of the hypervolume for the error of a metric."""
    return info.worst or 4.0 * float_error or 1.0
