"""Figures of one layer that are summed over many examples: of its outputs, and of what they lack under quantized inputs."""

import torch
from torch import Tensor, nn

from quant_core.network.linearity import Response, weight_response
from quant_core.network.moments import InputMoments
from quant_core.network.patches import weight_rows


class OutputFigures:
    """The mean and the variance of every output channel of one layer, over all that it gives.

    Args:
        axis: of the channels, from the end.
    """

    def __init__(self, axis: int) -> None:
        self._axis, self._count = axis, 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def update(self, output: Tensor) -> None:
        """Take in outputs, [..., C, ...]."""
        rows = output.detach().movedim(self._axis, -1).flatten(0, -2).double()
        self._sum, self._squares = self._sum + rows.sum(dim=0), self._squares + rows.square().sum(dim=0)
        self._count += len(rows)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return means and variances, [C] float64 each; empty where there was no output."""
        if not self._count:
            return torch.zeros(0), torch.zeros(0)
        mean = torch.as_tensor(self._sum) / self._count
        return mean, (torch.as_tensor(self._squares) / self._count - mean.square()).clamp_min(0)


class Lack:
    """What the outputs of a layer lack when it is given quantized inputs x', and its weight is float: w x - w x', against x'.

    The products E[(w x - w x') x'^T] are the gradient of the layer's output in its weight, so that they are exact for whatever a layer does
    with its input (a subclass that pads it, say).

    Args:
        module: of the layer.
        response: how its output depends on its weight.
        weight: float.
        axis: of the output channels, from the end.
    """

    def __init__(self, module: nn.Module, response: Response, weight: Tensor, axis: int) -> None:
        self._module, self._response, self._weight, self._axis = module, response, weight, axis
        self._products, self._inputs = torch.zeros_like(weight), torch.zeros_like(weight)
        self._lack: Tensor | float = 0.0
        self._count = 0

    def update(self, x: Tensor, wanted: Tensor) -> None:
        """Take in the quantized inputs of a call, and the float layer's outputs, which may be off by a constant per channel."""
        weight = self._weight.detach().requires_grad_()
        with torch.enable_grad():
            outputs = weight_response(self._module, weight, x, self._response)
        if outputs is None or outputs.shape != wanted.shape:
            return
        lack = wanted - outputs.detach()
        self._products += torch.autograd.grad(outputs, weight, lack, retain_graph=True)[0]
        self._inputs += torch.autograd.grad(outputs, weight, torch.ones_like(outputs))[0]
        rows = lack.movedim(self._axis, -1).flatten(0, -2)
        self._lack = self._lack + rows.sum(dim=0)
        self._count += len(rows)

    def shift(self, moments: InputMoments) -> Tensor | None:
        """Return by how much the weight has to change so that the outputs lack nothing, up to a constant per channel: [G, O, K].

        None where the moments of the inputs are those of a sample.
        """
        if moments.matrix is None or not self._count or not bool(torch.isfinite(moments.matrix).all()):
            return None
        products, inputs = (weight_rows(self._module, sums) / self._count for sums in (self._products, self._inputs))
        mean = torch.as_tensor(self._lack).reshape(len(products), -1, 1) / self._count
        matrix = moments.matrix.double()
        matrix.diagonal(dim1=1, dim2=2).add_(1e-6 * matrix.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True) + 1e-30)
        shift: Tensor = torch.linalg.solve(matrix, (products - mean * inputs).double().transpose(1, 2)).transpose(1, 2).float()
        return shift
