"""ExecuTorch programs for its XNNPACK backend: packed codes and quantizers in `model.pte`, run by its runtime, one example at a time."""

import tempfile
from pathlib import Path

from quant_core.export.executorch import inspection, register, version
from quant_core.export.executorch.program import Lowered, float_program, program
from quant_core.export.norms import norms_into_scales
from quant_core.export.replay import latency, replayed
from quant_core.export.stored import Quantized
from quant_core.export.tagging import input_names
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import Bundle, Exported
from search.exporters.runtimes import example_arrays
from search.exporters.verify import Compared, compare, require_close

FILE = "model.pte"
SPARE = 1
"""Predictions that may differ in any case: a test split of hundreds has near ties."""
_BY_ROW = (
    "the ranges of inputs are taken as the program runs wherever XNNPACK has kernels for that; its static int8, which rounds biases to "
    "steps of input scale x weight scale, does not do here: {}"
)


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the program and run it on the test split in a fresh process.

    Raises:
        InputError: executorch is not installed, or a program cannot hold the policy or the network.
        BitfrontError: the outputs are not those of the simulation, or the types stored not those of the policy.
    """
    register()
    network, path = norms_into_scales(bundle.network), folder / FILE
    made, compared, notes = _verified(bundle, network, path)
    names = [layer.name for layer in bundle.layers if layer.calls]
    run_by, types = inspection.kernels(path, names), inspection.stored_types(path, network.stored, made.floats)
    checks = dict(compared.checks) | run_by.checks | {"stored_types": types}
    if bundle.measure:
        with tempfile.TemporaryDirectory() as place:
            reference = Path(place, "float.pte")
            float_program(bundle.task.model, bundle.network.example).save(reference)
            checks |= latency(path, reference, example_arrays(bundle.network.example), runtime="executorch").checks
    checks |= {"file_bytes": len(made.data), "payload_bytes": made.payload, "carrier_bytes": made.extra}
    checks |= {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy), "runtime": f"ExecuTorch {version()}"}
    return Exported((FILE,), checks, (*made.notes, *notes))


def _verified(bundle: Bundle, network: Quantized, path: Path) -> tuple[Lowered, Compared, tuple[str, ...]]:
    """Write the program by static int8, or, where that fails or changes outputs, by ranges that are taken as it runs; return it, compared.

    Raises:
        InputError: a program cannot hold the policy or the network.
        BitfrontError: the outputs are not those of the simulation either way.
    """
    reason = ""
    if any(layer.grid is not None for layer in network.stored):
        try:
            made, compared = _compared(bundle, network, path, static=True)
            if compared.close(network.stored, SPARE, rounded=True):
                return made, compared, ()
            reason = _BY_ROW.format(compared)
        except InputError:
            raise
        except BitfrontError as error:
            reason = _BY_ROW.format(error)
    made, compared = _compared(bundle, network, path, static=False)
    compared = require_close(bundle, compared, "ExecuTorch", SPARE, rounded=True)
    return made, compared, (reason,) if reason else ()


def _compared(bundle: Bundle, network: Quantized, path: Path, *, static: bool) -> tuple[Lowered, Compared]:
    made = program(network, allow_dequantized=bundle.allow_dequantized, rounded=bundle.round_scales, static=static)
    made.save(path)
    with replayed(path, input_names(bundle.network.example), runtime="executorch") as replay:
        return made, compare(bundle, replay)
