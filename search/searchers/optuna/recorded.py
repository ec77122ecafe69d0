"""A recorded sweep as an Optuna study: for optuna-dashboard, Optuna's plots, and samplers that go on from it."""

import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from quant_core.util.errors import BitfrontError, InputError
from search.records.front import figures, front_members
from search.records.record import SweepRecord, TrialRecord
from search.records.summary import readable

optuna.logging.set_verbosity(optuna.logging.WARNING)
_STATES = {"ok": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


def write_study(sweep: SweepRecord, storage: str, name: str = "") -> str:
    """Write a sweep into an Optuna storage as a study, whole or not at all, and return the study's name.

    Objectives are minimized, in SI units. Parameters are the choices, `LAYER.weight` and `LAYER.activation`, of every layer with more than
    one among the trials. A limit of the sweep is a constraint: figure / limit - 1 <= 0. What Optuna has no place for are user attributes.

    Args:
        sweep: the record.
        storage: an address that Optuna takes, as sqlite:///optuna.db.
        name: of the study; by default the sweep's.

    Raises:
        InputError: there is such a study, or the storage cannot be opened.
        BitfrontError: the sweep has no trial that ended.
    """
    ended = [trial for trial in sweep.trials if trial.result.status in _STATES]
    if not ended:
        raise BitfrontError(f"sweep {sweep.name!r} has no trial that ended; there is nothing to write.")
    name, ranges, front = name or sweep.name, _ranges(sweep), {trial.number for trial in front_members(sweep)}
    trials = [_frozen(sweep, trial, ranges, trial.number in front) for trial in ended]
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=["minimize"] * len(sweep.objectives))
    except DuplicatedStudyError:
        raise InputError(f"the storage has a study {name!r} already; give another --name or --storage.") from None
    except Exception as error:  # whatever the database's driver raises
        raise InputError(f"the storage cannot be opened ({type(error).__name__}); give an address such as sqlite:///optuna.db.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of set_metric_names, since Optuna 3.2
            study.set_metric_names(list(sweep.objectives))
        for key, value in {
            "sweep": sweep.name,
            "run_id": sweep.run_id,
            "experiment": sweep.experiment,
            "float": dict(sweep.baseline),
        }.items():
            study.set_user_attr(key, value)
        study.add_trials(trials)
    except BaseException:
        optuna.delete_study(study_name=name, storage=storage)
        raise
    return name


def _ranges(sweep: SweepRecord) -> dict[str, BaseDistribution]:
    """Return the choices of every layer among the trials."""
    seen: dict[str, dict[str, None]] = {}
    for trial in sweep.trials:
        for parameter, spec in _parameters(trial).items():
            seen.setdefault(parameter, {})[spec] = None
    return {parameter: CategoricalDistribution(sorted(specs)) for parameter, specs in seen.items() if len(specs) > 1}


def _parameters(trial: TrialRecord) -> dict[str, str]:
    choices = trial.policy.items()
    return {f"{layer}.{slot}": str(getattr(choice, slot)) for layer, choice in choices for slot in ("weight", "activation")}


def _frozen(sweep: SweepRecord, trial: TrialRecord, ranges: dict[str, BaseDistribution], on_front: bool) -> FrozenTrial:
    """Return a trial as Optuna keeps it."""
    values, parameters, state = figures(trial), _parameters(trial), _STATES[trial.result.status]
    attributes = {"policy": trial.policy.id, "trial of the sweep": trial.number, "origin": trial.origin, "on the front": on_front}
    attributes |= {"fidelity": trial.result.fidelity}
    attributes |= {"repeats": trial.repeated} if trial.repeated >= 0 else {}
    attributes |= {"reason": trial.result.reason} if trial.result.reason else {}
    return optuna.trial.create_trial(
        state=state,
        values=[values[name] for name in sweep.objectives] if state is TrialState.COMPLETE else None,
        params={name: parameters[name] for name in ranges},
        distributions=ranges,
        user_attrs=attributes | readable(values, "", sweep.infos),
        constraints={name: values[name] / limit - 1.0 for name, limit in sweep.limits.items() if name in values and limit},
    )
