"""`model.onnx`: packed integers under DequantizeLinear, activations through QuantizeLinear and DequantizeLinear, run by onnxruntime."""

from pathlib import Path

from quant_core.errors import BitfrontError
from quant_core.export.graph import quantized_graph
from quant_core.export.marks import input_names
from quant_core.export.runtime import Session
from quant_core.export.stored import StoredLayer, stored_layers
from quant_core.files import write_bytes
from quant_core.size import weight_bytes
from search.exporters import Bundle, Exported
from search.exporters.verify import Compared, compare

FILE = "model.onnx"
AGREEMENT_8_BITS, AGREEMENT = 0.999, 0.99
DIFFERENCE = 0.1
"""Of the largest output: one activation that lies between two codes may take the other one."""
DIFFERENCE_WEIGHTS = 1e-3
"""Of the largest output, where activations are float: nothing but the order of sums differs."""


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the graph and run it on the test split, with onnxruntime's default optimisations; where they change the result, without
    its fusion of quantized operators too.

    Raises:
        InputError: ONNX cannot say the policy.
        BitfrontError: onnxruntime gives something else than the simulation.
    """
    engine = bundle.evaluator.engine
    stored = stored_layers(engine, bundle.layers, bundle.policy)
    example = bundle.evaluator.calib[0]
    graph = quantized_graph(engine.restore(), stored, example, bundle.allow_dequantized)
    data = graph.model.SerializeToString()
    write_bytes(folder / FILE, data)
    names = input_names(example)
    plain = compare(bundle, Session(folder / FILE, names))
    checks: dict[str, float | str] = dict(plain.checks) | {"onnxruntime_options": "default"}
    notes = list(graph.notes)
    if not _good(plain, stored):
        unfused = compare(bundle, Session(folder / FILE, names, fuse=False))
        if not _good(unfused, stored):
            raise BitfrontError(f"onnxruntime does not give what the search measured: {_words(unfused)}. Nothing was written.")
        checks = dict(unfused.checks) | {
            "onnxruntime_options": "session.disable_quant_qdq=1",
            "accuracy_test_default_options": plain.accuracy,
            "top1_agreement_default_options": plain.top1_agreement,
        }
        notes.append(
            "set session.disable_quant_qdq = 1: onnxruntime's fusion of quantized operators rounds biases to steps of input scale x weight "
            f"scale, which are coarse here ({_words(plain)} with its default options)"
        )
    sizes = {"file_bytes": len(data), "payload_bytes": graph.payload, "carrier_bytes": graph.extra}
    modelled = {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy)}
    return Exported((FILE,), checks | sizes | modelled | {"opset": graph.model.opset_import[0].version}, tuple(notes))


def _good(found: Compared, stored: tuple[StoredLayer, ...]) -> bool:
    specs = [spec for each in stored for spec in (each.policy.weight, each.policy.activation) if not spec.is_float]
    agreement = AGREEMENT_8_BITS if all(spec.bits >= 8 for spec in specs) else AGREEMENT
    return found.within(agreement, DIFFERENCE_WEIGHTS if all(each.grid is None for each in stored) else DIFFERENCE)


def _words(found: Compared) -> str:
    share = f"top-1 agrees on {found.top1_agreement:.2%} of {found.count}"
    return f"{share}, outputs differ by up to {found.difference:.3g} of {found.largest:.3g}"
