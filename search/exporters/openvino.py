"""OpenVINO's intermediate representation: packed codes and FakeQuantize in `model.xml` and `model.bin`, run by its CPU plugin."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quant_core.export.norms import norms_into_scales
from quant_core.export.openvino import inspection, library, version
from quant_core.export.openvino.model import float_representation, representation
from quant_core.export.replay import latency, replayed
from quant_core.export.stored import StoredLayer
from quant_core.export.tagging import input_names, tensor_leaves
from quant_core.network.forward import first_example
from quant_core.spec.size import weight_bytes
from search.exporters import Bundle, Exported
from search.exporters.verify import compare, require_any_batch, require_close

FILE, WEIGHTS = "model.xml", "model.bin"
SPARE = 1
"""Predictions that may differ in any case: a test split of hundreds has near ties."""
_OPTIONS = "INFERENCE_PRECISION_HINT=f32"
_FLOATS = "{0} of {1} convolutions are computed by integers: the plugin computes one by integers where its input is quantized to 8 bits or \
fewer, and its weights have one scale per tensor or channel"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the model and run it on the test split in a fresh process.

    Raises:
        InputError: openvino is not installed, or its files cannot hold the policy, or the graph holds for one batch size only.
        BitfrontError: the outputs of the CPU plugin are not those of the simulation, or the types stored not those of the policy.
    """
    library()
    network, path = norms_into_scales(bundle.network), folder / FILE
    made = representation(network, bundle.allow_dequantized)
    made.save(path)
    names, rounded = input_names(bundle.network.example), any(map(_rounds_inputs, network.stored))
    with replayed(path, names, runtime="openvino") as replay:
        require_any_batch(bundle.network, replay, "OpenVINO's", rounded=rounded)
        compared = compare(bundle, replay)
    compared = require_close(bundle, compared, "OpenVINO", SPARE, rounded=rounded)
    run_by = inspection.kernels(path, [layer.name for layer in bundle.layers])
    checks = dict(compared.checks) | run_by.checks | {"stored_types": inspection.stored_types(path, network.stored)}
    notes = (_FLOATS.format(*run_by.convolutions),) if 0 < run_by.convolutions[0] < run_by.convolutions[1] else ()
    if bundle.measure:
        checks |= _latency(bundle, path, example_arrays(bundle))
    sizes = [(folder / file).stat().st_size for file in (FILE, WEIGHTS)]
    checks |= {"file_bytes": sum(sizes), "graph_bytes": sizes[0], "payload_bytes": made.payload, "carrier_bytes": made.extra}
    checks |= {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy), "runtime": f"OpenVINO {version()}"}
    return Exported((FILE, WEIGHTS), checks | {"runtime_options": _OPTIONS}, (*made.notes, *notes))


def example_arrays(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Return one example of the network's inputs by name."""
    tensors = tensor_leaves(first_example(bundle.network.example))
    return {name: tensor.numpy() for name, tensor in zip(input_names(bundle.network.example), tensors, strict=True)}


def _rounds_inputs(layer: StoredLayer) -> bool:
    """Tell whether the plugin may round a layer's float inputs to 8 bits: products with packed weights."""
    return layer.encoded is not None and layer.grid is None and layer.layer.kind == "linear"


def _latency(bundle: Bundle, path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, float | str]:
    """Return the latency of one example beside the float network's, on one thread, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "float.xml")
        float_representation(bundle.task.model, bundle.network.example).save(reference)
        return latency(path, reference, arrays, runtime="openvino").checks
