"""The table of schedulers: what ends trials early, or breeds how they are trained. Free of heavy imports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant_core.errors import InputError
from quant_core.registry import suggest, unknown

NONE, POPULATION = "none", "pbt"
RAY = "ray:"
"""Before the name of one of Ray Tune's own searchers (`search.ray_backend.searchers`)."""


@dataclass(frozen=True)
class Kind:
    """A scheduler: where it is, and the names of its options."""

    path: str
    options: tuple[str, ...]


SCHEDULERS: dict[str, Kind] = {
    NONE: Kind("", ()),
    "asha": Kind("search.ray_backend.schedulers:asha", ("grace", "reduction")),
    "hyperband": Kind("search.ray_backend.schedulers:hyperband", ("brackets", "reduction")),
    POPULATION: Kind("quant_core.qat.population:train", ("members", "every")),
}


def stops_trials(name: str) -> bool:
    """Tell whether a scheduler decides after every rung, which only the ray backend asks it to."""
    return name not in (NONE, POPULATION)


def check(name: str, options: Mapping[str, Any], backend: str, trains: bool) -> None:
    """Refuse a scheduler that does not go with the rest of the experiment.

    Args:
        name: of `SCHEDULERS`, or the user's own `package.module:function`.
        options: of the scheduler.
        backend: where trials run.
        trains: some trials train.

    Raises:
        InputError: unknown name or option; trials that nobody could stop; a population without training.
    """
    if name not in SCHEDULERS and ":" not in name:
        raise unknown("scheduler", name, SCHEDULERS)
    known = SCHEDULERS[name].options if name in SCHEDULERS else tuple(options)
    wrong = [each for each in options if each not in known]
    if wrong:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise InputError(f"scheduler {name!r} has no option {wrong[0]!r}; {takes}.{suggest(wrong[0], known)}")
    if stops_trials(name) and backend == "local":
        raise InputError(f"scheduler = {name!r} stops trials on workers, and backend = 'local' has none; give backend = 'ray'.")
    if name == POPULATION and not trains:
        raise InputError(f"scheduler = {name!r} breeds how policies are trained, and none is; give evaluate.fidelity = 'qat' or a ladder.")


def split(searcher: str) -> tuple[str, str]:
    """Return (searcher, scheduler) of the shorthand `ray:ASHA+random`; the scheduler is "" where there is none."""
    head, plus, tail = searcher.removeprefix(RAY).partition("+")
    return (RAY + tail, head.lower()) if searcher.startswith(RAY) and plus else (searcher, "")
