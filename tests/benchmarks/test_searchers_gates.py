"""The gates of the searcher benchmark: judged from the rows, not by hand; and runs that end at the optimum."""

from typing import Any

import pytest

from benchmarks.searchers_gates import gates
from benchmarks.searchers_problems import cases
from benchmarks.searchers_run import run


def row(label: str, family: str = "P4", case: str = "size 0.1", seed: int = 0, **given: Any) -> dict[str, Any]:
    regret = {"100": given.get("regret", 0.5), "200": given.get("regret", 0.5), "300": given.get("regret", 0.5)}
    return {
        "family": family, "case": case, "label": label, "seed": seed, "evaluations": 300, "regret": regret,
        "solved_at": given.get("solved_at"), "near_at": None, "ms_per_evaluation": given.get("ms", 1.0),
    }  # fmt: skip


def verdict(rows: list[dict[str, Any]], words: str) -> str:
    (line,) = [line for line in gates(rows) if words in line]
    return line.rsplit("|", 2)[1].strip()


def test_the_agent_must_be_below_both_rivals_unless_it_is_at_the_optimum() -> None:
    rivals = [row("haq", regret=0.3), row("random, repair haq", regret=0.2)]
    asked = "median regret of `haq+`"
    assert verdict([*rivals, row("haq+, repair haq", regret=0.1)], asked) == "yes"
    assert verdict([*rivals, row("haq+, repair haq", regret=0.25)], asked) == "NO"
    assert verdict([row("haq", regret=0.0), rivals[1], row("haq+, repair haq", regret=0.0)], asked) == "yes"


def test_auto_must_solve_a_budget_with_every_seed_and_never_be_worse() -> None:
    rows = [row("auto", case=f"c{n}", seed=seed, solved_at=200, regret=0.0) for n in range(4) for seed in range(2)]
    asked = "`auto` finds the optimum of P4"
    assert verdict(rows, asked) == "yes"
    rows[0]["solved_at"] = None
    assert "3 of 4 budgets with every seed; 7 of 8 runs" in "".join(gates(rows))
    assert verdict(rows, asked) == "NO"
    compared = [row("auto", regret=0.1), row("random", regret=0.2), row("ilp", regret=0.15)]
    assert verdict(compared, "never worse") == "yes"
    assert verdict([row("auto", regret=0.16), *compared[1:]], "never worse") == "NO"


def test_evolution_must_be_at_least_as_good_as_tpe_and_nsga2_in_regret_and_in_hypervolume() -> None:
    asked = "median regret of `evo` at least as good as that of `tpe` and of `nsga2` on P4"
    rivals = [row("tpe", regret=0.2), row("nsga2", regret=0.1)]
    assert verdict([*rivals, row("evo", regret=0.1)], asked) == "yes"
    assert verdict([*rivals, row("evo", regret=0.15)], asked) == "NO"
    volumes = {"evo": 0.9, "tpe": 0.8, "nsga2": 0.7}
    rows = [{**row(label, family="front"), "hypervolume": {"100": volume}} for label, volume in volumes.items()]
    assert verdict(rows, "median hypervolume of `evo`") == "yes"
    rows[0]["hypervolume"]["100"] = 0.75
    assert verdict(rows, "median hypervolume of `evo`") == "NO"


def test_the_agent_alone_must_be_below_tpe_and_random_alone_at_every_number_of_evaluations() -> None:
    asked = "median regret of `haq+` alone"
    rivals = [row("tpe alone", "P6", regret=0.3), row("random", "P6", regret=0.4)]
    assert verdict([*rivals, row("haq+ alone", "P6", regret=0.2)], asked) == "yes"
    assert verdict([*rivals, row("haq+ alone", "P6", regret=0.3)], asked) == "NO"


def test_time_and_warm_starts_are_judged_per_problem() -> None:
    assert verdict([row("swap", ms=9.0), row("swap", family="P5", ms=11.0)], "`swap`: at most 10 ms") == "NO"
    assert verdict([row("tpe", regret=0.1, ms=150.0), row("tpe cold", regret=0.2)], "`tpe` warm") == "yes"
    assert verdict([row("ilp", family="P1", solved_at=1, ms=1200.0)], "each in under 1 s") == "NO"


def test_a_run_ends_at_the_optimum_but_not_before_its_least_evaluations() -> None:
    case = cases(("P1",))[0]
    ended = run(case.problem, case.measure, "ilp_topk", seed=0, evaluations=30, enough=case.best + 1e-9)
    assert len(ended.best) == 1
    longer = run(case.problem, case.measure, "ilp_topk", seed=0, evaluations=30, enough=case.best + 1e-9, least=7)
    assert len(longer.best) == 7
    assert longer.error == pytest.approx(case.best)
