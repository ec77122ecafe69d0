"""ExecuTorch programs for its XNNPACK backend: packed codes and quantizers in `model.pte`, run by its runtime, one example at a time."""

from functools import partial
from pathlib import Path

from quant_core.export.executorch import inspection, register, version
from quant_core.export.executorch.program import Lowered, float_program, program
from quant_core.export.norms import norms_into_scales
from search.exporters import Bundle, Exported
from search.exporters.one_example import checked, verified

FILE = "model.pte"
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

    def made_by(static: bool) -> Lowered:
        return program(network, allow_dequantized=bundle.allow_dequantized, rounded=bundle.round_scales, static=static)

    ways = (True, False) if any(layer.grid is not None for layer in network.stored) else (False,)
    made, compared, notes = verified(bundle, path, [(partial(made_by, way), _BY_ROW) for way in ways], ("executorch", "ExecuTorch"))
    names = [layer.name for layer in bundle.layers if layer.calls]
    run_by, types = inspection.kernels(path, names), inspection.stored_types(path, network.stored, made.floats)
    checks = dict(compared.checks) | run_by.checks | {"stored_types": types}

    def write_float(place: Path) -> None:
        float_program(bundle.task.model, bundle.network.example).save(place)

    checks |= checked(bundle, path, made, write_float, ("executorch", f"ExecuTorch {version()}"))
    return Exported((FILE,), checks, (*made.notes, *notes))
