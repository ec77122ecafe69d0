"""Ray Tune's own searchers: faults, and points that they did not suggest. They also pass `tests/search/searchers/test_searchers.py`."""

import numpy as np
import pytest

from quant_core.util.errors import InputError
from search.problem.problem import Problem, Trial, Values
from search.searchers import build


def toy(objectives: tuple[str, ...] = ("error",)) -> Problem:
    """Return six dimensions of four choices; the latency of a choice is its index."""
    return Problem((4,) * 6, objectives, tuple((d,) for d in range(6)), {"latency": tuple(np.arange(4.0) for _ in range(6))})


def test_rays_searchers_say_what_they_need_and_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown searcher of Ray 'OptunaSerach'; known: .*Did you mean 'OptunaSearch'"):
        build("ray:OptunaSerach", toy())
    with pytest.raises(InputError, match=r"'ray:OptunaSearch' has no argument 'samplr'; it takes .*Did you mean 'sampler'"):
        build("ray:OptunaSearch", toy(), options={"arguments": {"samplr": 1}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="'ray:HyperOptSearch' needs hyperopt, which is not installed: pip install hyperopt"):
        build("ray:HyperOptSearch", toy())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"'ray:HyperOptSearch' minimizes one figure, and error, latency are given .*ray:OptunaSearch"):
        build("ray:HyperOptSearch", toy(objectives=("error", "latency")))


def test_rays_searcher_learns_of_trials_that_it_did_not_suggest() -> None:
    problem = toy()
    best = tuple(k - 1 for k in problem.cardinalities)

    def proposed(told: bool) -> list[Values]:
        searcher = build("ray:OptunaSearch", problem, seed=1, trials=20)
        if told:
            for number in range(12):
                searcher.tell(Trial(-1, tuple((v - number) % 4 for v in best)), (float(number),))
        points = []
        for _ in range(12):
            trial = searcher.ask()
            assert trial is not None
            points.append(trial.values)
            searcher.tell(trial, (float(sum(best) - sum(trial.values)),))
        return points

    assert proposed(told=True) != proposed(told=False)
