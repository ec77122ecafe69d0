"""OpenVINO's intermediate representation: packed codes and FakeQuantize in `model.xml` and `model.bin`, run by its CPU plugin."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quant_core.export.norms import norms_into_scales
from quant_core.export.openvino import inspection, library, version
from quant_core.export.openvino.model import Representation, float_representation, representation
from quant_core.export.replay import latency, replayed
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.tagging import input_names, tensor_leaves
from quant_core.network.forward import first_example
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError
from quant_core.util.text import cut
from search.exporters import Bundle, Exported
from search.exporters.verify import Compared, any_length, compare, in_float64, require_any_batch, require_close

FILE, WEIGHTS = "model.xml", "model.bin"
SPARE = 1
"""Predictions that may differ in any case: a test split of hundreds has near ties."""
_OPTIONS = "INFERENCE_PRECISION_HINT=f32"
_OVERFLOW = (
    "set LP_TRANSFORMS_MODE = NO on this processor: without VNNI its int8 kernels add two products in 16 bits, and {count} layers overflow \
({outputs}); float32 computes them from the same file"
)
_FAILS = "set LP_TRANSFORMS_MODE = NO: its int8 kernels fail on this network ({reason}); float32 computes them from the same file"
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
    rounded = any(map(_rounds_inputs, network.stored))
    run, notes = any_length(network, lambda network: _written(bundle, network, path, rounded=rounded))
    made, compared = run.made, require_close(bundle, run.compared, "OpenVINO", SPARE, rounded=rounded)
    notes += (run.note,) if run.note else ()
    run_by = inspection.kernels(path, [layer.name for layer in bundle.layers], integers=not run.note)
    written = [layer for layer in network.stored if layer.layer.name not in made.unread]
    checks = dict(compared.checks) | run_by.checks | {"stored_types": inspection.stored_types(path, written)}
    checks |= _overflow(network)
    notes += (_FLOATS.format(*run_by.convolutions),) if 0 < run_by.convolutions[0] < run_by.convolutions[1] else ()
    if bundle.measure:
        checks |= _latency(bundle, path, example_arrays(bundle), integers=not run.note)
    sizes = [(folder / file).stat().st_size for file in (FILE, WEIGHTS)]
    checks |= {"file_bytes": sum(sizes), "graph_bytes": sizes[0], "payload_bytes": made.payload, "carrier_bytes": made.extra}
    checks |= {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy), "runtime": f"OpenVINO {version()}"}
    options = [_OPTIONS, *(f"{key}={value}" for key, value in inspection.NO_INTEGERS.items() if run.note)]
    checks["runtime_options"] = ", ".join(options)
    return Exported((FILE, WEIGHTS), checks, (*made.notes, *notes))


@dataclass(frozen=True)
class _Run:
    """What was written, how it compares, and what to set where int8 kernels do not compute it."""

    made: Representation
    compared: Compared
    note: str = ""


def _written(bundle: Bundle, network: Quantized, path: Path, *, rounded: bool) -> _Run:
    """Write a network and run it on batches of all its sizes, and on the test split; without int8 kernels where these overflow."""
    made, count = representation(network, bundle.allow_dequantized), sum(layer.overflows for layer in network.stored)
    made.save(path)
    try:
        compared = _compared(bundle, network, path, rounded=rounded)
        if not count or compared.close(network.stored, SPARE, rounded=rounded):
            return _Run(made, compared)
        note = _OVERFLOW.format(count=count, outputs=compared)
    except BitfrontError as error:
        if all(layer.grid is None for layer in network.stored):
            raise
        compared, note = None, _FAILS.format(reason=cut(str(error), 160).rstrip("."))
    exact = _compared(bundle, network, path, rounded=rounded, integers=False)
    if compared and not exact.close(network.stored, SPARE, rounded=rounded):
        rounding = in_float64(bundle)
        compared, exact = replace(compared, rounding=rounding), replace(exact, rounding=rounding)
        if compared.rounds or not exact.rounds:
            return _Run(made, compared)
    return _Run(made, exact, note)


def _compared(bundle: Bundle, network: Quantized, path: Path, *, rounded: bool, integers: bool = True) -> Compared:
    with replayed(path, input_names(network.example), fuse=integers, runtime="openvino") as replay:
        require_any_batch(network, replay, "OpenVINO's", rounded=rounded)
        return compare(bundle, replay)


def _overflow(network: Quantized) -> dict[str, float | str]:
    """Return how many int8 layers may overflow on other processors, where any may."""
    count = sum(layer.overflows for layer in network.stored)
    return {"overflow_without_vnni": f"{count} of {sum(layer.grid is not None for layer in network.stored)}"} if count else {}


def example_arrays(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Return one example of the network's inputs by name."""
    tensors = tensor_leaves(first_example(bundle.network.example))
    return {name: tensor.numpy() for name, tensor in zip(input_names(bundle.network.example), tensors, strict=True)}


def _rounds_inputs(layer: StoredLayer) -> bool:
    """Tell whether the plugin may round a layer's float inputs to 8 bits: products with packed weights."""
    return layer.encoded is not None and layer.grid is None and layer.layer.kind == "linear"


def _latency(bundle: Bundle, path: Path, arrays: Mapping[str, NDArray[Any]], *, integers: bool) -> dict[str, float | str]:
    """Return the latency of one example beside the float network's, on one thread, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "float.xml")
        float_representation(bundle.task.model, bundle.network.example).save(reference)
        return latency(path, reference, arrays, fuse=integers, runtime="openvino").checks
