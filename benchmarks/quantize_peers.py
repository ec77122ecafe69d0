"""Other libraries' quantize and dequantize, for `benchmarks.quantize`; those that are not installed are left out."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Actions = dict[str, Callable[[], object]]


def peers(x: Tensor) -> Actions:
    """Return name -> action on `x` [R, C] of every peer that is installed."""
    actions: Actions = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package, make in (("torchao", _torchao), ("brevitas", _brevitas), ("mx", _microxcaling), ("quark", _quark)):
            if importlib.util.find_spec(package) is not None:
                actions |= make(x)
    return actions


def _torchao(x: Tensor) -> Actions:
    mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
    constants = importlib.import_module("torchao.prototype.mx_formats.constants")
    nv = importlib.import_module("torchao.prototype.mx_formats.nvfp4_tensor")

    def round_trip(kind: Any) -> Callable[[], object]:
        def action() -> object:
            scale, elements = mx.to_mx(x, kind, 32)
            return mx.to_dtype(elements, scale, kind, 32, torch.float32)

        return action

    def nvfp4() -> object:
        scale = nv.per_tensor_amax_to_scale(x.abs().max())
        return nv.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(torch.float32)

    return {
        "torchao mxfp4": round_trip(torch.float4_e2m1fn_x2),
        "torchao mxfp6e2m3": round_trip(constants.DTYPE_FP6_E2M3),
        "torchao mxfp8e4m3": round_trip(torch.float8_e4m3fn),
        "torchao nvfp4": nvfp4,
        "torchao int4 group 128": _torchao_groups(x),
    }


def _torchao_groups(x: Tensor) -> Callable[[], object]:
    primitives = importlib.import_module("torchao.quantization.quant_primitives")

    def action() -> object:
        block = (1, 128)
        scale, zero = primitives.choose_qparams_affine(x, primitives.MappingType.SYMMETRIC, block, torch.int8, -8, 7)
        codes = primitives.quantize_affine(x, block, scale, zero, torch.int8, -8, 7)
        return primitives.dequantize_affine(codes, block, scale, zero, torch.int8, -8, 7)

    return action


def _brevitas(x: Tensor) -> Actions:
    quant = importlib.import_module("brevitas.quant")
    modules = importlib.import_module("brevitas.nn")
    actions: Actions = {}
    for name in ("Int8WeightPerTensorFloat", "Int8WeightPerChannelFloat"):
        layer = modules.QuantLinear(x.shape[1], x.shape[0], bias=False, weight_quant=getattr(quant, name))
        layer.weight.data = x
        layer.eval()
        actions[f"brevitas {name}"] = _without_gradient(layer.quant_weight)
    return actions


def _microxcaling(x: Tensor) -> Actions:
    operations = importlib.import_module("mx.mx_ops")
    return {
        f"microxcaling {name}": _without_gradient(
            lambda name=name: operations._quantize_mx(x, 8, name, axes=[-1], block_size=32, round="even")  # type: ignore[misc]
        )
        for name in ("fp4_e2m1", "fp8_e4m3", "int8")
    }


def _quark(x: Tensor) -> Actions:
    hardware = importlib.import_module("quark.torch.kernel.hw_emulation.hw_emulation_interface")
    return {"quark mx9": lambda: hardware.fake_quantize_mx6_mx9(x, axis=-1, block_size=16, quant_bit=8, sub_block_size=2)}


def _without_gradient(action: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return action()

    return call
