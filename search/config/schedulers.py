"""The table of schedulers: rules that end trials early, or adapt their training by a population. Free of heavy imports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant_core.util.errors import InputError
from quant_core.util.registry import suggest, unknown

NONE, POPULATION, RACE = "none", "pbt", "race"
RAY = "ray:"
"""Before the name of one of Ray Tune's own searchers (`search.sweeps.ray.searchers`)."""


@dataclass(frozen=True)
class Kind:
    """A scheduler: where it is, its options with their least values (where that is whole, so is the option), one line about it."""

    path: str
    options: Mapping[str, float]
    about: str


SCHEDULERS: dict[str, Kind] = {
    NONE: Kind("", {}, "Runs every trial to its end."),
    "asha": Kind("search.sweeps.ray.schedulers:asha", {"grace": 1, "reduction": 1.1}, "Ray Tune's ASHA on the fidelity axis."),
    "hyperband": Kind("search.sweeps.ray.schedulers:hyperband", {"brackets": 1, "reduction": 1.1}, "Ray Tune's asynchronous HyperBand."),
    POPULATION: Kind(
        "quant_core.qat.population:train", {"members": 2, "every": 1}, "Adapts learning rate and distillation weight by a population."
    ),
    RACE: Kind(
        "search.sweeps.race:Race",
        {"confidence": 0.0},
        "Stops a trial that is worse, on an eighth or half of the validation examples, than one that costs no more.",
    ),
}


def stops_trials(name: str) -> bool:
    """Tell whether a scheduler decides after every rung, which only the ray backend allows."""
    return name not in (NONE, POPULATION, RACE)


def check(name: str, options: Mapping[str, Any], backend: str, trains: bool) -> None:
    """Refuse a scheduler that contradicts the rest of the experiment.

    Args:
        name: of `SCHEDULERS`, or the user's own `package.module:function`.
        options: of the scheduler.
        backend: where trials run.
        trains: some trials train.

    Raises:
        InputError: unknown name, option or value; trials that nobody could stop; a population without training.
    """
    if name not in SCHEDULERS and ":" not in name:
        raise unknown("scheduler", name, SCHEDULERS)
    if name in SCHEDULERS:
        _check_options(name, options)
    if stops_trials(name) and backend == "local":
        raise InputError(f"scheduler = {name!r} stops trials on workers, and backend = 'local' has none; give backend = 'ray'.")
    if name == RACE and backend != "local":
        raise InputError(f"scheduler = {name!r} compares trials in one process, and backend = {backend!r} given; give backend = 'local'.")
    if name == RACE and not options.get("confidence", 0.95) < 1:
        raise InputError(f"confidence = {options['confidence']!r} of scheduler {name!r} given; a number below 1 is needed, as 0.95.")
    if name == POPULATION and not trains:
        raise InputError(
            f"scheduler = {name!r} trains policies by a population, and no policy is trained; give evaluate.fidelity = 'qat' or a ladder."
        )


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    allowed = SCHEDULERS[name].options
    for option, value in options.items():
        if option not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise InputError(f"scheduler {name!r} has no option {option!r}; {takes}.{suggest(option, allowed)}")
        least = allowed[option]
        whole = isinstance(least, int)
        needed = "a whole number" if whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)) or not value >= least:
            raise InputError(f"{option} = {value!r} of scheduler {name!r} given; {needed} of {least} or more is needed.")


def split(searcher: str) -> tuple[str, str]:
    """Return (searcher, scheduler) of the shorthand `ray:ASHA+random`; the scheduler is "" where there is none."""
    head, plus, tail = searcher.removeprefix(RAY).partition("+")
    return (RAY + tail, head.lower()) if searcher.startswith(RAY) and plus else (searcher, "")
