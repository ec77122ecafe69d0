"""`model.onnx`: packed integers under DequantizeLinear, activations through QuantizeLinear and DequantizeLinear, run by onnxruntime."""

from collections.abc import Sequence
from pathlib import Path

from quant_core.export.graph import quantized_graph
from quant_core.export.norms import norms_into_scales
from quant_core.export.runtime import Session
from quant_core.export.stored import StoredLayer
from quant_core.export.tagging import input_names
from quant_core.spec.size import weight_bytes
from quant_core.util.files import write_bytes
from search.exporters import Bundle, Exported
from search.exporters.verify import compare, require_close

FILE = "model.onnx"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the graph and run it on the test split, with onnxruntime's default optimisations; where they change the result, without
    its fusion of quantized operators too.

    Raises:
        InputError: ONNX cannot represent the policy.
        BitfrontError: the outputs of onnxruntime are not those of the simulation.
    """
    graph = quantized_graph(norms_into_scales(bundle.network), bundle.allow_dequantized)
    data = graph.model.SerializeToString()
    write_bytes(folder / FILE, data)
    names = input_names(bundle.network.example)
    plain = compare(bundle, Session(folder / FILE, names))
    checks: dict[str, float | str] = dict(plain.checks) | {"onnxruntime_options": "default"}
    notes = list(graph.notes)
    stored = bundle.network.stored
    if not plain.close(stored):
        unfused = compare(bundle, Session(folder / FILE, names, fuse=False))
        require_close(unfused, stored, "onnxruntime")
        checks = dict(unfused.checks) | {
            "onnxruntime_options": "session.disable_quant_qdq=1",
            "accuracy_test_default_options": plain.accuracy,
            "top1_agreement_default_options": plain.top1_agreement,
        }
        notes.append(f"set session.disable_quant_qdq = 1: {_fused(stored)} ({plain} with its default options)")
    sizes = {"file_bytes": len(data), "payload_bytes": graph.payload, "carrier_bytes": graph.extra}
    modelled = {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy)}
    return Exported((FILE,), checks | sizes | modelled | {"opset": graph.model.opset_import[0].version}, tuple(notes))


def _fused(stored: Sequence[StoredLayer]) -> str:
    """Return the effect of onnxruntime's fusion of quantized operators on such layers."""
    if all(layer.grid is None for layer in stored):
        return "onnxruntime's fused products of 4- and 8-bit weights round their inputs to 8 bits"
    return "onnxruntime's fusion of quantized operators rounds biases to steps of input scale x weight scale, which are coarse here"
