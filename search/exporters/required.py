"""The check of an experiment's formats before its first trial. Light: the formats' libraries are imported where there are any."""

from search.evaluation.measure import first_inputs
from search.sweeps.setup import Setup


def require_formats(setup: Setup) -> None:
    """Refuse a network or a space that the formats of the experiment cannot hold; without formats their libraries are not imported.

    Raises:
        InputError: as `search.exporters.support.check_formats`.
    """
    if setup.experiment.export.formats:
        from search.exporters.support import check_formats

        check_formats(setup.experiment.export.formats, setup.task.model, first_inputs(setup.task), setup.layers, setup.space.layer_choices)
