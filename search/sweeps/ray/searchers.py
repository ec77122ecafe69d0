"""Ray Tune's own searchers behind `ask` and `tell`: `searcher = "ray:OptunaSearch"`. They run here, in the driver; no cluster is needed."""

import contextlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from quant_core.util.errors import InputError
from quant_core.util.registry import load, suggest, unknown
from search.problem.problem import Problem, Trial, Values
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses_for
from search.sweeps.ray.cluster import settled


@dataclass(frozen=True)
class _Kind:
    """One of Ray's searchers.

    Attributes:
        path: `module:attribute` of the class.
        needs: the packages that it needs, module -> name to install.
        about: one line for `bitfront list`.
        several: it takes several objectives.
        whole: it takes domains of whole numbers.
    """

    path: str
    needs: Mapping[str, str]
    about: str
    several: bool = False
    whole: bool = True


RAY_SEARCHERS: dict[str, _Kind] = {
    "random": _Kind("search.sweeps.ray.searchers:RandomVariants", {}, "Draws as Ray Tune's BasicVariantGenerator.", several=True),
    "OptunaSearch": _Kind("ray.tune.search.optuna:OptunaSearch", {"optuna": "optuna"}, "Ray Tune's wrapper of Optuna.", several=True),
    "HyperOptSearch": _Kind("ray.tune.search.hyperopt:HyperOptSearch", {"hyperopt": "hyperopt"}, "HyperOpt's TPE; one objective."),
    "BayesOptSearch": _Kind(
        "ray.tune.search.bayesopt:BayesOptSearch",
        {"bayes_opt": "bayesian-optimization==1.4.3"},
        "A Gaussian process; one objective.",
        whole=False,
    ),
}
"""Nevergrad and ZOOpt are left out: their proposals differ from run to run, so such a sweep could not be resumed."""
_SEEDS = ("seed", "random_state_seed", "random_state")


class _Suggests(Protocol):
    """The part of `ray.tune.search.Searcher` that is used."""

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any]) -> bool:
        """Take the space."""

    def suggest(self, trial_id: str) -> Any:
        """Return a configuration."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn."""

    def add_evaluated_point(self, parameters: dict[str, Any], value: float) -> None:
        """Learn of a point that was not suggested."""


class RandomVariants:
    """Draws every value from its domain, as Tune's BasicVariantGenerator does, which is no Searcher."""

    def __init__(self, metric: Sequence[str] | str, mode: Sequence[str] | str, seed: int) -> None:
        self._state = np.random.RandomState(seed)
        self._domains: dict[str, Any] = {}

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any]) -> bool:
        """Take the space."""
        self._domains = config
        return True

    def suggest(self, trial_id: str) -> dict[str, int]:
        """Return a configuration."""
        return {name: domain.sample(random_state=self._state) for name, domain in self._domains.items()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Random search learns nothing."""

    def add_evaluated_point(self, parameters: dict[str, Any], value: float) -> None:
        """Random search learns nothing."""


class RaySearcher:
    """Asks one of Ray's searchers for points, repairs them, and never proposes one twice.

    A suggestion that had to change is told the figures of the point that it was changed to. Trials that were never suggested, as the
    uniform policies, are told where Ray's searcher takes such (OptunaSearch does, with one objective).

    Options:
        repair: how a suggestion over a limit is brought back, a name of `search.problem.repair.REPAIRS`.
        arguments: keyword arguments of Ray's class.
    """

    def __init__(self, problem: Problem, inner: _Suggests, history: ProposalHistory, *, whole: bool) -> None:
        from ray import tune

        self._history, self._inner, self._objectives = history, inner, problem.objectives
        self._names = [f"d{d:03d}" for d in range(len(problem.cardinalities))]
        domain = tune.randint if whole else tune.uniform
        space = {name: domain(0, k) for name, k in zip(self._names, problem.cardinalities, strict=True)}
        self._inner.set_search_properties(None, None, space)
        self._most = [k - 1 for k in problem.cardinalities]
        self._ids: dict[int, str] = {}
        self._count = 0

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed, or Ray's searcher waits for results."""
        name = f"{self._count:06d}"
        config = self._inner.suggest(name)
        if not isinstance(config, dict):  # None: not now; "FINISHED": never again
            return None
        self._count += 1
        wanted: Values = tuple(min(int(config[key]), most) for key, most in zip(self._names, self._most, strict=True))
        values = self._history.fresh(wanted)
        if values is None:
            self._inner.on_trial_complete(name, error=True)
            return None
        trial = self._history.open(values)
        self._ids[trial.number] = name
        return trial

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Pass on what a suggestion gave; without figures (it failed or was stopped) as an error."""
        self._history.note(trial, objectives)
        name = self._ids.pop(trial.number, None)
        if name is not None and objectives is None:
            self._inner.on_trial_complete(name, error=True)
        elif name is not None and objectives is not None:
            self._inner.on_trial_complete(name, dict(zip(self._objectives, objectives, strict=True)))
        elif objectives is not None and len(objectives) == 1:
            with contextlib.suppress(NotImplementedError):
                self._inner.add_evaluated_point(dict(zip(self._names, trial.values, strict=True)), float(objectives[0]))


def maker(name: str) -> Callable[..., RaySearcher]:
    """Return the function that builds Ray's searcher `name`, a key of `RAY_SEARCHERS`, as `search.searchers.build` calls it.

    Raises:
        InputError: unknown, or a package that it needs is not installed.
    """
    if name not in RAY_SEARCHERS:
        raise unknown("searcher of Ray", name, RAY_SEARCHERS)
    kind = RAY_SEARCHERS[name]
    missing = [package for module, package in kind.needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"searcher 'ray:{name}' needs {' and '.join(missing)}, which is not installed: pip install {' '.join(missing)}")

    def make(
        problem: Problem,
        *,
        seed: int,
        trials: int,  # noqa: ARG001
        repair: str = "random",
        arguments: Mapping[str, Any] | None = None,
    ) -> RaySearcher:
        if len(problem.objectives) > 1 and not kind.several:
            raise InputError(
                f"searcher 'ray:{name}' minimizes one figure, and {', '.join(problem.objectives)} are given as objectives; give ['error'] "
                f"and a budget, or one of {', '.join(f'ray:{other}' for other, kind in RAY_SEARCHERS.items() if kind.several)}."
            )
        history = ProposalHistory(problem, seed, Repairer(problem, repair, losses_for(problem, repair)))
        with settled():
            return RaySearcher(problem, _inner(name, kind, problem, seed, dict(arguments or {})), history, whole=kind.whole)

    return make


def _inner(name: str, kind: _Kind, problem: Problem, seed: int, arguments: dict[str, Any]) -> _Suggests:
    """Build Ray's searcher with the seed under the name that it gives it.

    Raises:
        InputError: an argument that it does not take.
    """
    build = cast(Callable[..., _Suggests], load(kind.path))
    allowed = [
        argument for argument in inspect.signature(build).parameters if argument not in ("self", "metric", "mode", "space", "kwargs")
    ]
    wrong = [argument for argument in arguments if argument not in allowed]
    if wrong:
        raise InputError(f"searcher 'ray:{name}' has no argument {wrong[0]!r}; it takes {', '.join(allowed)}.{suggest(wrong[0], allowed)}")
    one = len(problem.objectives) == 1
    metric: Any = problem.objectives[0] if one else list(problem.objectives)
    mode: Any = "min" if one else ["min"] * len(problem.objectives)
    seeds = {name: seed for name in _SEEDS if name in allowed}
    return build(metric=metric, mode=mode, **(seeds | arguments))
