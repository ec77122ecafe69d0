"""The check of an experiment's formats before its first trial. Light: the formats' libraries are imported where there are any."""

from quant_core.spec.policy import NONE
from quant_core.util.errors import InputError
from quant_core.util.text import listed
from search.evaluation.measure import first_inputs
from search.exporters.kv_cache import require_kv_formats
from search.sweeps.setup import Setup


def require_formats(setup: Setup) -> None:
    """Refuse a network or a space that the formats of the experiment cannot hold; without formats their libraries are not imported.

    Raises:
        InputError: as `search.exporters.support.check_formats`.
    """
    formats, network = setup.experiment.export.formats, setup.experiment.space.network
    untransformed = sorted(set(formats) & {"torchao", "vllm"})
    if untransformed and NONE not in network:
        raise InputError(
            f"formats {listed(untransformed)} take the weights of the float network, and network = {list(network)} is given; "
            f"add 'none' to it, or use onnx or safetensors."
        )
    require_kv_formats(formats, setup.experiment.space.kv)
    if formats:
        from search.exporters.support import check_formats

        evaluate, layers = setup.experiment.evaluate, setup.layers
        corrected = evaluate.bias_correction and evaluate.fidelity == "ptq"
        example = first_inputs(setup.task)
        check_formats(formats, setup.task.model, example, layers, setup.space.layer_choices, bias_correction=corrected)
