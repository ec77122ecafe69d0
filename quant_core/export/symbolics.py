"""Operators that networks use and torch's TorchScript exporter lacks, for as long as one export lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional
from torch.onnx import symbolic_helper
from torch.overrides import TorchFunctionMode

_END = 2**62


@contextmanager
def more_operators(opset: int) -> Iterator[None]:
    """Teach the exporter aten::diff, and aten::cumsum of booleans."""
    registry: Any = torch.onnx
    symbolics = {"aten::diff": _diff, "aten::cumsum": _cumsum}
    for name, symbolic in symbolics.items():
        registry.register_custom_op_symbolic(name, symbolic, opset)
    try:
        yield
    finally:
        for name in symbolics:
            registry.unregister_custom_op_symbolic(name, opset)


@contextmanager
def plain_operators() -> Iterator[None]:
    """Let attention and channel shuffles compute by operators that the exporter has.

    Attention does so without torch's fused kernels, with every group's heads repeated.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _Plain():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Plain(TorchFunctionMode):
    """Turns attention of grouped queries (`enable_gqa`) into that of as many heads of keys and values as of queries, channel shuffles into
    an exchange of two axes, and axes of `unfold` and `permute` into those from the front."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`; attention of groups with its keys and values repeated, a channel shuffle by its axes."""
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention and kwargs.pop("enable_gqa", False):
            query, key, value = (*args, *(kwargs.pop(name) for name in ("query", "key", "value")[len(args) :]))[:3]
            times = int(query.shape[-3]) // int(key.shape[-3])
            return self.__torch_function__(func, types, (query, _repeated(key, times), _repeated(value, times), *args[3:]), kwargs)
        if func is functional.scaled_dot_product_attention and torch.float16 in {
            x.dtype for x in (*args, *kwargs.values()) if isinstance(x, Tensor)
        }:
            return _attention(*args, **kwargs)
        if func in (torch.channel_shuffle, torch.native_channel_shuffle):
            return _shuffled(*args, **kwargs)
        if func is Tensor.unfold:
            return _unfolded(*args, **kwargs)
        if func in (torch.permute, Tensor.permute):
            return _permuted(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(query key^T scale + mask) value, [..., L, E] of [..., L, E] and [..., S, E]; the softmax in float32.

    The exporter's own mapping of attention in float16 takes its result for float32. Without dropout, as in eval mode.
    """
    del dropout_p  # that of a network in eval mode is 0
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.transpose(-2, -1)).float() * factor
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        blocked = torch.finfo(torch.float16).min
        scores = scores.masked_fill(~attn_mask, blocked) if attn_mask.dtype == torch.bool else scores + attn_mask.float()
    return scores.softmax(-1).to(value.dtype) @ value


def _repeated(heads: Tensor, times: int) -> Tensor:
    """Return [..., heads, T, E] with every head `times` times in a row."""
    return heads.unsqueeze(-3).expand(*[-1] * (heads.dim() - 2), times, -1, -1).flatten(-4, -3)


def _shuffled(input: Tensor, groups: int) -> Tensor:
    """Return [N, C, ...] with the channels of `groups` equal groups taken in turn, as torch.channel_shuffle does."""
    return torch.unflatten(input, 1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _unfolded(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Return x.unfold along an axis counted from the front: the exporter mistakes one that is counted from the back."""
    return x.unfold(dimension % x.dim(), size, step)


def _permuted(input: Tensor, *axes: Any, dims: Any = ()) -> Tensor:
    """Return input.permute with axes counted from the front: the exporter writes others into the graph, which ONNX lacks."""
    order = dims or (axes[0] if isinstance(axes[0], tuple | list) else axes)
    return input.permute([int(axis) % input.dim() for axis in order])


def _diff(graph: Any, x: Any, _n: Any, axis: Any, before: Any, after: Any) -> Any:
    """x[1:] - x[:-1] along an axis; the first difference is the only one that masks take."""
    helper: Any = symbolic_helper
    dim = helper._get_const(axis, "i", "dim")
    parts = [part for part in (before, x, after) if not helper._is_none(part)]
    whole = graph.op("Concat", *parts, axis_i=dim) if len(parts) > 1 else x
    later, earlier = (helper._slice_helper(graph, whole, axes=[dim], starts=[start], ends=[end]) for start, end in ((1, _END), (0, -1)))
    return graph.op("Sub", later, earlier)


def _cumsum(graph: Any, x: Any, axis: Any, _dtype: Any) -> Any:
    """CumSum, of int64 where torch gives it booleans or small integers."""
    helper: Any = symbolic_helper
    dim = graph.op("Constant", value_t=torch.tensor(helper._get_const(axis, "i", "dim")))
    kind = x.type().dtype()
    wide = x if kind is not None and kind.is_floating_point else graph.op("Cast", x, to_i=TensorProto.INT64)
    return graph.op("CumSum", wide, dim)
