"""ONNX files: packed integers under DequantizeLinear, or as MatMulNBits, and activations through QuantizeLinear; run by onnxruntime."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quant_core.export.graph import Graph, float_graph, quantized_graph
from quant_core.export.kernels import kernels
from quant_core.export.norms import norms_into_scales
from quant_core.export.replay import latency, replayed
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.stored_types import stored_types
from quant_core.export.tagging import input_names, tensor_leaves
from quant_core.network.forward import first_example
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_bytes
from search.exporters import Bundle, Exported
from search.exporters.verify import any_length, compare, in_float64, require_any_batch, require_close

FILE, PACKED_FILE = "model.onnx", "model.matmulnbits.onnx"
SPARE = 1
"""Predictions that onnxruntime's fused kernels may change in any case: a test split of hundreds has near ties."""
LARGE = 2**28
"""Bytes of float weights above which a graph is run in processes of their own alone, which give all memory back."""
_DEFAULT = {"onnxruntime_options": "default"}
_FLOATS = (
    "{0} of {1} convolutions are computed by integers: onnxruntime computes one by integers where a quantizer follows its output, or where "
    "it is 1 x 1; elsewhere a residual sum, a pooling or an activation function reads its output in float"
)


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the graph and run it on the test split in a fresh process, with onnxruntime's default optimisations; where they change the
    result, without its fusion of quantized operators too.

    Raises:
        InputError: ONNX cannot represent the policy, or the graph holds for one batch size only.
        BitfrontError: the outputs of onnxruntime are not those of the simulation, or the types stored not those of the policy.
    """
    return _exported(bundle, folder, FILE, products=False)


def export_matmulnbits(bundle: Bundle, folder: Path) -> Exported:
    """Write the graph with the linear layers of float inputs as onnxruntime's MatMulNBits; the rest as `export`.

    Raises:
        InputError: as `export`, or MatMulNBits holds no layer of the policy.
        BitfrontError: as `export`.
    """
    return _exported(bundle, folder, PACKED_FILE, products=True)


def _exported(bundle: Bundle, folder: Path, file: str, *, products: bool) -> Exported:
    network, path, names = norms_into_scales(bundle.network), folder / file, input_names(bundle.network.example)
    graph, notes = any_length(network, lambda network: _written(network, path, names, bundle.allow_dequantized, products=products))
    checks, verified = _verified(bundle, path, names, rounded=products)
    fuse = checks["onnxruntime_options"] == "default"
    run_by = kernels(path, fuse=fuse)
    checks |= run_by.checks | {
        "stored_types": stored_types(path, [layer for layer in network.stored if layer.layer.name not in graph.unread])
    }
    notes += verified
    if run_by.convolutions[0] < run_by.convolutions[1] and fuse and run_by.convolutions[0]:
        notes += (_FLOATS.format(*run_by.convolutions),)
    if bundle.measure:
        checks |= _latency(bundle, path, names, fuse=fuse)
    checks |= {"file_bytes": path.stat().st_size, "payload_bytes": graph.payload, "carrier_bytes": graph.extra}
    checks |= {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy), "opset": graph.model.opset_import[0].version}
    return Exported((file,), checks, (*graph.notes, *notes))


def _written(network: Quantized, path: Path, names: Sequence[str], allow_dequantized: bool, *, products: bool) -> Graph:
    """Write the graph of a network, run on batches of all its sizes.

    Raises:
        InputError: ONNX cannot represent the policy, or the graph holds for one size only.
    """
    graph = quantized_graph(network, allow_dequantized, products=products)
    write_bytes(path, graph.model.SerializeToString())
    if products and not network.others:  # its kernels round by rows, so one example alone gives the same
        return graph
    if sum(layer.weight.nbytes for layer in network.stored) > LARGE:  # onnxruntime takes four times that to load it
        with replayed(path, names, fuse=False) as replay:
            require_any_batch(network, replay, "the ONNX", rounded=products)
    else:
        require_any_batch(network, Session(path, names, fuse=False), "the ONNX", rounded=products)
    return graph


def _verified(bundle: Bundle, path: Path, names: Sequence[str], *, rounded: bool) -> tuple[dict[str, float | str], tuple[str, ...]]:
    """Return the checks of a run with onnxruntime's default options, or, where they fail or change outputs, without fusion, and a note.

    Raises:
        BitfrontError: the outputs without fusion are not those of the simulation either.
    """
    stored, plain = bundle.network.stored, None
    try:
        with replayed(path, names) as replay:
            plain = compare(bundle, replay)
        if plain.close(stored, SPARE, rounded=rounded):
            return dict(plain.checks) | _DEFAULT, ()
        reason = f"{_fused(stored)} ({plain} with its default options)"
        default: dict[str, float | str] = {f"{plain.metric}_test_default_options": plain.accuracy} if plain.metric else {}
        default["top1_agreement_default_options"] = plain.top1_agreement
    except BitfrontError as error:
        reason, default = f"its fusion of quantized operators fails on this network ({error})", {}
    with replayed(path, names, fuse=False) as replay:
        unfused = compare(bundle, replay)
    if not unfused.close(stored, rounded=rounded):
        rounding = in_float64(bundle)
        unfused = replace(unfused, rounding=rounding)
        if plain is not None and (plain := replace(plain, rounding=rounding)).rounds:
            return dict(plain.checks) | _DEFAULT, ()
    unfused = require_close(bundle, unfused, "onnxruntime", rounded=rounded)
    checks = dict(unfused.checks) | {"onnxruntime_options": "session.disable_quant_qdq=1"} | default
    return checks, (f"set session.disable_quant_qdq = 1: {reason}",)


def _latency(bundle: Bundle, path: Path, names: Sequence[str], *, fuse: bool) -> dict[str, float | str]:
    """Return the latency of one example beside the float network's, on one thread, in one process."""
    example = first_example(bundle.network.example)
    inputs = {name: tensor.numpy() for name, tensor in zip(names, tensor_leaves(example), strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "float.onnx")
        write_bytes(reference, float_graph(bundle.task.model, bundle.network.example).SerializeToString())
        return latency(path, reference, inputs, fuse=fuse).checks


def _fused(stored: Sequence[StoredLayer]) -> str:
    """Return the effect of onnxruntime's fusion of quantized operators on such layers."""
    if all(layer.grid is None for layer in stored):
        return "onnxruntime's fused products of 4- and 8-bit weights round their inputs to 8 bits"
    reason = "onnxruntime's fusion of quantized operators rounds biases to steps of input scale x weight scale, which are coarse here"
    return (
        f"{reason}, or, without VNNI, adds two products in 16 bits, which overflow" if any(layer.overflows for layer in stored) else reason
    )
