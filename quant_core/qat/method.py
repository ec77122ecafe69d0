"""The parts of a method of quantization-aware training: a weight quantizer, an input quantizer, and the specs that they cover."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from quant_core.codecs import Bounds
from quant_core.codecs.qparams import QParams
from quant_core.network.statistics import TensorStatistics
from quant_core.spec.quant_spec import QuantSpec

Stored = tuple[Tensor, QuantSpec, Bounds | None]


class WeightQuantizer(nn.Module):
    """A parametrization: called with the float master weight, it returns the quantized weight through which the loss is taken.

    In eval mode the result depends on the weight and on this module's state alone, and equals the values that `stored` describes.

    `decays`: whether weight decay applies to its parameters.

    Args:
        spec: how to quantize; not float.
        channel_axis: axis of the output channels of the weight.
    """

    decays = False

    def __init__(self, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__()
        self.spec = replace(spec, rounding="nearest")
        self.channel_axis = channel_axis
        self.stochastic = spec.rounding == "stochastic"

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight, the shape of `weight`."""

    def stored(self, weight: Tensor) -> Stored:
        """Return the values, spec and bounds from which `quantize.encode` makes exactly the quantized `weight`."""
        return weight, self.spec, None

    def constrain(self, weight: Tensor) -> None:
        """Bring the master weight and the learned values back into their domain, in place, after a step of the optimiser."""


class InputQuantizer(nn.Module):
    """Quantizes the input of a layer.

    `tracking`: ranges follow the batches in train mode. `decays`: whether weight decay applies to its parameters. `deferred`: `slope` of
    the input of a call whose layer gives `learned` its gradient (see `quant_core.qat.input`); None outside of such a call.
    """

    decays = False

    def __init__(self) -> None:
        super().__init__()
        self.tracking = True
        self.deferred: Tensor | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized input, the shape of `x`."""

    def codes(self) -> QParams | None:
        """Return the quantization parameters of a static integer input, None of any other."""
        return None

    def constrain(self) -> None:
        """Bring the learned value back into its domain, in place, after a step of the optimiser."""

    def learned(self) -> nn.Parameter | None:
        """Return the one value that is learned of the range of the input; None where nothing is."""
        return None

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative of the quantized input with respect to `learned`, the shape of `x`, times the scale of its gradient.

        Raises:
            NotImplementedError: nothing is learned.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of `QAT_METHODS`.

    Attributes:
        weight: (initial weight, spec, channel axis) -> its quantizer.
        input: (spec, statistics of the input or None, channel axis) -> its quantizer.
        covers_weight: which weight specs the method is for; `ste` takes the others.
        covers_input: which (spec, statistics) of inputs it is for; `ste` takes the others.
        about: one line.
    """

    weight: Callable[[Tensor, QuantSpec, int], WeightQuantizer]
    input: Callable[[QuantSpec, TensorStatistics | None, int], InputQuantizer]
    covers_weight: Callable[[QuantSpec], bool]
    covers_input: Callable[[QuantSpec, TensorStatistics | None], bool]
    about: str


def is_linear(spec: QuantSpec) -> bool:
    """Tell whether a weight spec is integers with one range per tensor, channel or group."""
    return spec.format == "int" and spec.granularity in ("tensor", "channel", "group")


def is_static(spec: QuantSpec) -> bool:
    """Tell whether an input spec is integers over one range that is fixed before the batch is seen."""
    return spec.format == "int" and spec.granularity == "tensor" and not spec.dynamic


def no_weight(_spec: QuantSpec) -> bool:
    """Return False: the method is for inputs alone."""
    return False


def no_input(_spec: QuantSpec, _statistics: TensorStatistics | None) -> bool:
    """Return False: the method is for weights alone."""
    return False
