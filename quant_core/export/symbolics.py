"""Operators that transformers' attention masks use and torch's TorchScript exporter lacks, for as long as one export lasts."""

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
def plain_attention() -> Iterator[None]:
    """Let attention compute by operators that the exporter has: without torch's fused kernels, with every group's heads repeated."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _RepeatedHeads():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _RepeatedHeads(TorchFunctionMode):
    """Turns attention of grouped queries (`enable_gqa`) into that of as many heads of keys and values as of queries."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`; attention of groups with its keys and values repeated."""
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention and kwargs.pop("enable_gqa", False):
            query, key, value = (*args, *(kwargs.pop(name) for name in ("query", "key", "value")[len(args) :]))[:3]
            times = int(query.shape[-3]) // int(key.shape[-3])
            return func(query, _repeated(key, times), _repeated(value, times), *args[3:], **kwargs)
        return func(*args, **kwargs)


def _repeated(heads: Tensor, times: int) -> Tensor:
    """Return [..., heads, T, E] with every head `times` times in a row."""
    return heads.unsqueeze(-3).expand(*[-1] * (heads.dim() - 2), times, -1, -1).flatten(-4, -3)


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
