"""No searcher is worse than the best uniform policy within its budget, or over the budget: on a table of measured policies."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest

from benchmarks import stores, uniform
from benchmarks.searchers_problems import BITS, PROBLEMS, Case, digits
from benchmarks.uniform import Bench, Run, counts, report, run_all, searched
from benchmarks.uniform_networks import Setting
from search.problem.problem import FloatArray, Problem, Trial, Values
from search.searchers import SEARCHERS
from search.sweeps.context import SweepContext

JOB = sorted(set(SEARCHERS) - set(uniform.CONTROLS))
RUN = Run("net", 0, 4, "auto", 5, 0, 0.5, 0.5, 0.6, 3.9, 4.0, -0.1, 0.01)


@dataclass(eq=False)
class TableBench(Bench):
    """A bench whose losses are read from the table of P4."""

    case: Case | None = None

    def loss(self, values: Values) -> float:
        assert self.case is not None
        return self.case.measure(values)

    def test(self, values: Values) -> FloatArray:
        return self.loss(values) + np.array([-0.01, 0.01])

    def bytes(self, values: Values) -> float:
        return self.problem.costs_of(values)["weight_bytes"]

    @property
    def weights(self) -> int:
        return int(self.problem.costs_of((3,) * 7)["weight_bytes"])

    def under(self, bits: int) -> Problem:
        at = (BITS.tolist().index(bits),) * 7
        return replace(self.problem, limits={"weight_bytes": self.problem.costs_of(at)["weight_bytes"]})


@pytest.fixture(scope="module")
def bench() -> TableBench:
    case = digits()[0]
    data = np.load(PROBLEMS / "digits_cnn_16384.npz")
    sizes = tuple(weights * BITS / 8 for weights in data["par"])
    every = tuple((k,) * 7 for k in range(4))
    problem = replace(case.problem, site_cost={"weight_bytes": sizes}, limits={}, baselines=every, gathered={}, objectives=("error",))
    context = cast(SweepContext, None)
    return TableBench("table", cast(Setting, None), context, problem, case=replace(case, problem=problem))


@pytest.mark.parametrize("name", JOB)
def test_no_searcher_is_worse_than_uniform_or_over_its_budget(bench: TableBench, name: str) -> None:
    runs = [searched(bench, name, budget, 0, 4) for budget in (3,)]
    assert all(run.proposals for run in runs)
    worse, _, worse_on_test, _, over = counts(runs)
    assert (worse, worse_on_test, over) == (0, 0, 0), "7 of 4,774 policies are better than 3 bits everywhere"
    assert all(run.bits <= 8 * bench.bytes((BITS.tolist().index(run.budget),) * 7) / bench.weights for run in runs)


def test_what_is_over_the_budget_is_counted_and_is_no_answer(bench: TableBench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Over:
        def ask(self) -> Trial | None:
            return Trial(0, (3, 3, 3, 3, 3, 3, 2))

        def tell(self, trial: Trial, objectives: object) -> None:
            pass

    monkeypatch.setattr(uniform, "build", lambda *_: Over())
    run = searched(bench, "over", 3, 0, 2)
    assert (run.over, run.own, run.answer) == (2, float("inf"), run.uniform)


def test_losses_are_counted_and_runs_are_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    worse = replace(RUN, answer=0.7, own=0.7, difference=0.1)
    unsure = replace(RUN, difference=0.015)
    assert counts([RUN, worse, unsure]) == (1, 1, 1, 1, 0)
    assert "| net | auto | 3 | 1 | 1 | 1 | 1 | 0 |" in report([RUN, worse, unsure])
    path = tmp_path_factory.mktemp("runs") / "runs.jsonl"
    path.write_text("")
    assert stores.recorded(path, Run) == []
    path.write_text('{"network": "digits", "seed": 0, "budget": 3, "searcher": "tpe", "proposals": 0, "over": 0, "own": Infinity, '
                    '"answer": 1.0, "uniform": 1.0, "bits": 3.0, "uniform_bits": 3.0, "difference": 0.0, "error": 0.0}\n')  # fmt: skip
    assert counts(stores.recorded(path, Run)) == (0, 0, 0, 0, 0), "who proposed nothing is not worse"
    assert run_all([], "", path) == []
