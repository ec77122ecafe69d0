"""Searchers: one file and one line each. A user's own goes in as `package.module:attribute`."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

from quant_core.util.errors import InputError
from quant_core.util.registry import load, resolve, suggest
from search.config.schedulers import RAY
from search.problem.problem import Problem, Searcher
from search.problem.repair import repair_name
from search.searchers.base.single import SinglePointSearcher

SEARCHERS: dict[str, str] = {
    "uniform": "search.searchers.uniform:UniformSearcher",
    "random": "search.searchers.random:RandomSearcher",
    "tpe": "search.searchers.optuna.tpe:TpeSearcher",
    "nsga2": "search.searchers.optuna.nsga2:Nsga2Searcher",
    "greedy": "search.searchers.greedy:GreedySearcher",
    "ilp": "search.searchers.ilp:IlpSearcher",
    "ilp_topk": "search.searchers.ilp:TopkSearcher",
    "pairwise": "search.searchers.pairwise:PairwiseSearcher",
    "swap": "search.searchers.swap:SwapSearcher",
    "haq": "search.searchers.haq.searcher:HaqSearcher",
    "haq+": "search.searchers.haq.plus:HaqPlusSearcher",
    "evo": "search.searchers.evo:EvoSearcher",
    "auto": "search.searchers.auto:AutoSearcher",
}


def build(name: str, problem: Problem, seed: int = 0, trials: int = 100, options: Mapping[str, Any] | None = None) -> Searcher:
    """Build a searcher: `name` of the table, one of Ray Tune's as `ray:NAME`, or a user's own `package.module:attribute`.

    Args:
        name: which one.
        problem: what to search.
        seed: decides the proposals, with the sequence of calls.
        trials: how many evaluations it may count on; schedules are fitted to it.
        options: the searcher's own keyword options.

    Raises:
        InputError: no such searcher, a package that it needs is missing, an option it does not have, or a limit that no point keeps.
    """
    make = _maker(name)
    values = present_options(name, options or {})
    allowed = [option for option in inspect.signature(make).parameters if option not in ("problem", "seed", "trials")]
    wrong = [option for option in values if option not in allowed]
    if wrong:
        takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
        raise InputError(f"searcher {name!r} has no option {wrong[0]!r}; {takes}.{suggest(wrong[0], allowed)}")
    if trials < 1:
        raise InputError(f"trials = {trials} given; at least 1 is needed.")
    if problem.size == 1:
        return SinglePointSearcher(problem)
    if problem.sensitivity is not None:  # it may cost evaluations, so it is called once at most
        problem = replace(problem, sensitivity=cache(problem.sensitivity))
    return make(problem, seed=seed, trials=trials, **values)


def present_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with a former name of a repair replaced by its present one; those of a user's own searcher stay as they are."""
    ours = name in SEARCHERS or name.startswith(RAY)
    return {key: repair_name(value) if ours and key == "repair" and isinstance(value, str) else value for key, value in options.items()}


def _maker(name: str) -> Callable[..., Searcher]:
    """Return the class or function that builds a searcher."""
    if name.startswith(RAY):
        find = cast(Callable[[str], Callable[..., Searcher]], load("search.sweeps.ray.searchers:maker"))
        return find(name.removeprefix(RAY))
    return cast(Callable[..., Searcher], resolve(SEARCHERS, "searcher", name))
