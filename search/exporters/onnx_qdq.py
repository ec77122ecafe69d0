"""`model.onnx`: packed integers under DequantizeLinear, activations through QuantizeLinear and DequantizeLinear, run by onnxruntime."""

from collections.abc import Sequence
from pathlib import Path

import torch

from quant_core.export.graph import quantized_graph
from quant_core.export.norms import norms_into_scales
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.tagging import input_names
from quant_core.network.forward import first_example, forward
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import write_bytes
from search.exporters import Bundle, Exported
from search.exporters.verify import DIFFERENCE, compare, require_close

FILE = "model.onnx"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the graph and run it on the test split, with onnxruntime's default optimisations; where they change the result, without
    its fusion of quantized operators too.

    Raises:
        InputError: ONNX cannot represent the policy, or the graph holds for one batch size only.
        BitfrontError: the outputs of onnxruntime are not those of the simulation.
    """
    graph = quantized_graph(norms_into_scales(bundle.network), bundle.allow_dequantized)
    data = graph.model.SerializeToString()
    write_bytes(folder / FILE, data)
    names, stored = input_names(bundle.network.example), bundle.network.stored
    _require_any_batch(bundle.network, Session(folder / FILE, names, fuse=False))
    checks, notes = _verified(bundle, folder / FILE, names, stored)
    sizes = {"file_bytes": len(data), "payload_bytes": graph.payload, "carrier_bytes": graph.extra}
    modelled = {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy)}
    return Exported((FILE,), checks | sizes | modelled | {"opset": graph.model.opset_import[0].version}, (*graph.notes, *notes))


def _verified(
    bundle: Bundle, path: Path, names: Sequence[str], stored: Sequence[StoredLayer]
) -> tuple[dict[str, float | str], tuple[str, ...]]:
    """Return the checks of a run with onnxruntime's default options, or, where they fail or change outputs, without fusion, and a note.

    Raises:
        BitfrontError: the outputs without fusion are not those of the simulation either.
    """
    try:
        plain = compare(bundle, Session(path, names))
        if plain.close(stored):
            return dict(plain.checks) | {"onnxruntime_options": "default"}, ()
        reason = f"{_fused(stored)} ({plain} with its default options)"
        default: dict[str, float | str] = {
            f"{plain.metric}_test_default_options": plain.accuracy,
            "top1_agreement_default_options": plain.top1_agreement,
        }
    except BitfrontError as error:
        reason, default = f"its fusion of quantized operators fails on this network ({error})", {}
    unfused = compare(bundle, Session(path, names, fuse=False))
    require_close(unfused, stored, "onnxruntime")
    checks = dict(unfused.checks) | {"onnxruntime_options": "session.disable_quant_qdq=1"} | default
    return checks, (f"set session.disable_quant_qdq = 1: {reason}",)


def _require_any_batch(network: Quantized, session: Session) -> None:
    """Refuse a graph that holds for the batch size of the example only, by running it on one example.

    Raises:
        InputError: it fails, or is further from the simulation than a batch: the network computes with its batch size as a constant.
    """
    single = first_example(network.example)
    with torch.inference_mode():
        wanted, wanted_all = forward(network.simulation, single), forward(network.simulation, network.example)
    try:
        differences = (session(network.example) - wanted_all).abs()  # where activations lie between two codes there are some at any size
        outputs = session(single)
        spare = DIFFERENCE * float(wanted_all.abs().max()) + float(differences.max())
        same, reason = outputs.shape == wanted.shape and float((outputs - wanted).abs().max()) <= spare, "one example alone gives others"
    except BitfrontError as error:
        same, reason = False, str(error)
    if not same:
        raise InputError(
            f"the ONNX graph runs at one batch size only ({reason}): the network has it as a constant; write its shapes after x.shape[0] "
            f"or -1, as in x.reshape(x.shape[0], -1)."
        )


def _fused(stored: Sequence[StoredLayer]) -> str:
    """Return the effect of onnxruntime's fusion of quantized operators on such layers."""
    if all(layer.grid is None for layer in stored):
        return "onnxruntime's fused products of 4- and 8-bit weights round their inputs to 8 bits"
    return "onnxruntime's fusion of quantized operators rounds biases to steps of input scale x weight scale, which are coarse here"
