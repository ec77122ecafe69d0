"""`fake_quantize`: a tensor rounded to what a `QuantSpec` can store; `encode` and `decode`: the codes and scales themselves.

A weight is seen as rows [output channels, everything else]; groups, vectors and blocks run along a row, the last of a row may be short.
An activation of transformers is handed over as [tokens, features]; `token` scales take the last axis of any tensor as the row.
"""

import torch
from torch import Tensor

from quant_core.codecs import Bounds, Encoded, codec
from quant_core.codecs.affine import apply_grid, write_grid
from quant_core.codecs.qparams import BlockQParams
from quant_core.codecs.scales import FLOAT_MAX, FLOAT_MIN
from quant_core.kernels.run import block_amax, not_finite
from quant_core.spec.quant_spec import FLOAT, QuantSpec, parse
from quant_core.util.errors import InputError


def fake_quantize(
    x: Tensor,
    spec: str | QuantSpec,
    *,
    channel_axis: int = 0,
    bounds: Bounds | None = None,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return `x` as `spec` stores it: same shape, dtype and device, every value finite. No gradient flows.

    The arithmetic is float32: float16, bfloat16 and float64 are converted, and results saturate at the largest number of the dtype.
    All-zero tensors, blocks and channels stay zero; a constant comes back as the nearest value that its scale gives; subnormal values
    stay finite (scales do not fall below the smallest normal float32). Empty tensors come back empty, a 0-d tensor is one channel of one
    value, and a group larger than the row is the row. Non-contiguous tensors give the same values as their contiguous copy.

    Args:
        x: floating-point tensor of any shape.
        spec: a `QuantSpec` or its text form.
        channel_axis: axis of the output channels (1 for transposed convolutions).
        bounds: (lo, hi), one value each or one per scale block in row-major order, in place of the clipping of `spec`; where every
            lo >= 0 a symmetric integer format becomes unsigned. TTQ and TWN take their levels from them, NVFP4 its tensor scale.
        generator: source of stochastic rounding; without it torch's default generator.
        out: a tensor like `x` to write to; may be `x` itself.

    Raises:
        InputError: NaN or infinity in `x`, an axis out of range, no floating-point tensor, unfit bounds or `out`.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    target = _target(x, out)
    if x.numel() == 0:
        return target
    rows = as_rows(x, spec, channel_axis)
    form = codec(spec)
    if form.fused is not None and spec.rounding != "stochastic" and rows.device.type == "cpu":
        written = _row_view(target, rows, channel_axis)
        if form.fused(rows, spec, bounds, written):
            return target if written.data_ptr() == target.data_ptr() else target.copy_(_restore(written, x, spec, channel_axis))
    _require_finite(rows)
    return target.copy_(_restore(form.decode(form.encode(rows, spec, bounds, generator), spec), x, spec, channel_axis))


def fake_quantize_affine(
    x: Tensor,
    scale: float | Tensor,
    zero_point: int | Tensor,
    low: int,
    high: int,
    *,
    channel_axis: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """Return (clamp(round(x (1/S)) + Z, low, high) - Z) S in float32, as torch.fake_quantize_per_channel_affine does.

    Args:
        x: finite floating-point tensor of any shape.
        scale: S, normal positive float32: one value, or one per channel of `channel_axis`.
        zero_point: Z, integers in [low, high], one or one per channel.
        low, high: the smallest and largest integer.
        channel_axis: axis that tensors `scale` and `zero_point` run along.
        out: a tensor like `x` to write to; may be `x` itself.

    Raises:
        InputError: NaN or infinity in `x`, scales that are no normal positive numbers, or the wrong number of them.
    """
    target = _target(x, out)
    if x.numel() == 0:
        return target
    rows = as_rows(x, FLOAT, channel_axis)
    grids = [torch.as_tensor(figure, dtype=torch.float32, device=x.device).reshape(-1, 1) for figure in (scale, zero_point)]
    if any(len(column) not in (1, len(rows)) for column in grids):
        raise InputError(f"{len(grids[0])} scales and {len(grids[1])} zero points given; 1 or {len(rows)} are needed.")
    if not bool(((grids[0] >= FLOAT_MIN) & (grids[0] <= FLOAT_MAX)).all()):
        raise InputError("scales that are zero, negative, subnormal or not finite given; give normal positive numbers.")
    scales, zero_points = (column.expand(max(map(len, grids)), 1) for column in grids)
    grid = BlockQParams(scales, zero_points, low, high, rows.shape[1])
    if rows.device.type != "cpu":
        _require_finite(rows)
        return target.copy_(_restore(apply_grid(rows, grid), x, FLOAT, channel_axis))
    written = _row_view(target, rows, channel_axis)
    write_grid(rows, grid, written)
    return target if written.data_ptr() == target.data_ptr() else target.copy_(_restore(written, x, FLOAT, channel_axis))


def encode(
    x: Tensor,
    spec: str | QuantSpec,
    *,
    channel_axis: int = 0,
    bounds: Bounds | None = None,
    generator: torch.Generator | None = None,
    importance: Tensor | None = None,
) -> Encoded:
    """Return the codes, scales and other metadata of `x` under `spec`, over the rows of `as_rows`. Arguments as for `fake_quantize`.

    `importance` > 0, of the shape of `x`, is what a `weighted` spec multiplies squared errors by when it chooses a range; without it, or
    where `bounds` are given, all weigh alike.

    Raises:
        InputError: as `fake_quantize`; also an empty tensor, or an importance of another shape.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if x.numel() == 0:
        raise InputError(f"empty tensor of shape {tuple(x.shape)} given; there is nothing to encode.")
    rows = as_rows(x, spec, channel_axis)
    _require_finite(rows)
    form = codec(spec)
    if importance is None or bounds is not None or not spec.weighted or form.weighted is None:
        return form.encode(rows, spec, bounds, generator)
    if importance.shape != x.shape:
        raise InputError(
            f"importance of shape {tuple(importance.shape)} given for values of {tuple(x.shape)}; one for every value is needed."
        )
    return form.weighted(rows, as_rows(importance, spec, channel_axis), spec, generator)


def decode(
    encoded: Encoded, spec: str | QuantSpec, shape: tuple[int, ...], *, channel_axis: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the tensor of `shape` that `encoded` stands for; `decode(encode(x))` equals `fake_quantize(x)` bit for bit."""
    spec = parse(spec) if isinstance(spec, str) else spec
    like = torch.empty(shape, dtype=dtype, device="meta")
    return _restore(codec(spec).decode(encoded, spec), like, spec, channel_axis).contiguous()


def as_rows(x: Tensor, spec: QuantSpec, channel_axis: int) -> Tensor:
    """Return `x` as a float32 matrix, contiguous: [channels, everything else], or [everything else, last axis] by token.

    Raises:
        InputError: an axis out of range, or no floating-point tensor.
    """
    if not x.is_floating_point():
        raise InputError(f"a tensor of {x.dtype} given; a floating-point tensor is needed.")
    if x.dim() and not -x.dim() <= channel_axis < x.dim():
        raise InputError(f"channel axis {channel_axis} given for a tensor of shape {tuple(x.shape)}; it has {x.dim()} axes.")
    moved = x.detach()
    if spec.granularity == "token":
        moved = moved.reshape(-1, x.shape[-1]) if x.dim() else moved.reshape(1, 1)
    else:
        moved = moved.movedim(channel_axis, 0).reshape(x.shape[channel_axis], -1) if x.dim() else moved.reshape(1, 1)
    return moved.to(torch.float32).contiguous()


def _row_view(target: Tensor, rows: Tensor, channel_axis: int) -> Tensor:
    """Return `target` as a matrix like `rows` where it lies in memory like one, apart from `rows`; else a new matrix."""
    same_memory = target.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
    other_order = bool(target.dim()) and channel_axis % target.dim() != 0 and len(rows) > 1
    if same_memory or other_order or target.dtype != torch.float32 or not target.is_contiguous():
        return torch.empty_like(rows)
    return target.view(rows.shape)


def _restore(rows: Tensor, like: Tensor, spec: QuantSpec, channel_axis: int) -> Tensor:
    """Return `rows` in the shape and dtype of `like`, saturated to the finite range of the dtype."""
    rows = saturated(rows, like.dtype)
    if spec.granularity == "token" or like.dim() == 0:
        return rows.reshape(like.shape)
    axis = channel_axis % like.dim()
    moved = (like.shape[axis], *like.shape[:axis], *like.shape[axis + 1 :])
    return rows.reshape(moved).movedim(0, axis)


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 `values` as `dtype`; what is beyond its finite range becomes its largest number."""
    if dtype in (torch.float16, torch.bfloat16):
        largest = torch.finfo(dtype).max
        values = values.clamp(-largest, largest)
    return values.to(dtype)


def _target(x: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        return torch.empty_like(x, memory_format=torch.contiguous_format, requires_grad=False)
    if (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device):
        described = f"{out.dtype} {tuple(out.shape)} on {out.device}"
        raise InputError(f"out is {described}; it must be like the input: {x.dtype} {tuple(x.shape)} on {x.device}.")
    return out.detach()


def _require_finite(rows: Tensor) -> None:
    if rows.device.type == "cpu":
        block_amax(rows, rows.shape[1])
        return
    finite = torch.isfinite(rows)
    if not bool(finite.all()):
        raise not_finite(rows)
