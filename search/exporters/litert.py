"""Files of LiteRT (TFLite): packed codes and quantizers in `model.tflite`, run by its interpreter, one example at a time."""

from functools import partial
from pathlib import Path

from quant_core.export.litert import inspection, library, version
from quant_core.export.litert.program import Written, float_program, program
from quant_core.export.norms import norms_into_scales
from search.exporters import Bundle, Exported
from search.exporters.one_example import checked, verified

FILE = "model.tflite"
_EXACT = (
    "layers that do not lie between two quantizers are computed in float32; LiteRT's products of packed weights, which round inputs to 8 "
    "bits as they run, do not do here: {}"
)
_PLAIN = (
    "all layers are computed in float32; LiteRT's int8, which rounds biases to steps of input scale x weight scale, does not do here, "
    "where codes of few bits take another one: {}"
)
_FLOATS = (
    "{0} of {1} convolutions are computed by integers: LiteRT computes depthwise ones by integers only between two quantizers, with no sum "
    "and no mean between; elsewhere codes become floats as the file is loaded"
)


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the file and run it on the test split in a fresh process.

    Raises:
        InputError: ai-edge-litert is not installed, or a file cannot hold the policy or the network.
        BitfrontError: the outputs are not those of the simulation, or the types stored not those of the policy.
    """
    library("interpreter")
    network, path = norms_into_scales(bundle.network), folder / FILE

    def made_by(rounding: bool, integers: bool) -> Written:
        return program(network, allow_dequantized=bundle.allow_dequantized, rounding=rounding, integers=integers)

    ways = [(partial(made_by, True, True), ""), (partial(made_by, False, True), _EXACT), (partial(made_by, False, False), _PLAIN)]
    made, compared, notes = verified(bundle, path, ways, ("litert", "LiteRT"))
    run_by = inspection.kernels(path, [layer.name for layer in bundle.layers if layer.calls])
    if 0 < run_by.convolutions[0] < run_by.convolutions[1]:
        notes += (_FLOATS.format(*run_by.convolutions),)
    types = inspection.stored_types(path, [layer for layer in network.stored if layer.layer.name not in made.unread])
    checks = dict(compared.checks) | run_by.checks | {"stored_types": types}

    def write_float(place: Path) -> None:
        float_program(bundle.task.model, bundle.network.example).save(place)

    checks |= checked(bundle, path, made, write_float, ("litert", f"LiteRT {version()}"))
    return Exported((FILE,), checks, (*made.notes, *notes))
