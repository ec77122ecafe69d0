"""What a format asks of a network before anything is written: layers that it can hold, and float32."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from quant_core.export.stored import StoredLayer
from quant_core.util.errors import InputError
from quant_core.util.text import first_fault

IN_FLOAT = "--allow-dequantized stores such weights in float32."
"""What `bitfront export` can do with weights that a format cannot hold; the end of such an error."""


def require_held(stored: Iterable[StoredLayer], refusals: Callable[[StoredLayer], Sequence[str]], *, allow_dequantized: bool) -> None:
    """Refuse a network with layers that a format cannot hold.

    Raises:
        InputError: the first layer with all that is refused of it, and how many layers more.
    """
    unfit = ((layer.layer.name, refusals(layer)) for layer in stored)
    faults = [f"layer {name!r}: {'; '.join(its)}" for name, its in unfit if its]
    if faults:
        raise InputError(f"{first_fault(faults)}{'.' if allow_dequantized else f'. {IN_FLOAT}'}")


def require_float32(kernels: str, tensors: Iterable[Tensor]) -> None:
    """Refuse a network with floating-point tensors of another type than `kernels` compute in.

    Raises:
        InputError: with the types.
    """
    if odd := sorted({str(tensor.dtype) for tensor in tensors if tensor.is_floating_point()} - {"torch.float32"}):
        raise InputError(f"{kernels} compute in float32, this network has {', '.join(odd)}; search and export model.float().")
