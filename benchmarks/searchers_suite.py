"""All searchers on all cases: runs what is not in the results file yet, then writes the tables."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.searchers_problems import Case, cases, digits_front
from benchmarks.searchers_report import COMMON_REPAIR, write
from benchmarks.searchers_run import front_run, run
from search.problem.repair import FORMER_NAMES

BUDGETS = (20, 50, 100, 200, 300)
TIMED = 50
"""Evaluations that the first seed makes even when it has the optimum, so that the searcher's time per evaluation is known."""


@dataclass(frozen=True)
class Entry:
    """One searcher as it is entered: `seeds` is how many of the suite's seeds it gets ("all", "half" for agents, "one" without chance).

    Without `sensitivities` it is not told those of the problem: what it has learned by the end is from its own evaluations.
    """

    label: str
    searcher: str
    options: Mapping[str, Any]
    seeds: str = "all"
    sensitivities: bool = True


OWN = (
    Entry("uniform", "uniform", {}, "one"),
    Entry("random", "random", {}),
    Entry("tpe cold", "tpe", {"warm": 0}),
    Entry("tpe", "tpe", {}),
    Entry("nsga2", "nsga2", {}),
    Entry("greedy", "greedy", {}, "one"),
    Entry("ilp", "ilp", {}, "one"),
    Entry("ilp_topk", "ilp_topk", {}, "one"),
    Entry("pairwise", "pairwise", {}),
    Entry("swap", "swap", {}),
    Entry("haq", "haq", {}, "half"),
    Entry("haq+", "haq+", {}, "half"),
    Entry("evo", "evo", {}),
    Entry("auto", "auto", {}),
)
SAME = tuple(
    Entry(f"{name}, repair {COMMON_REPAIR}", name, {"repair": COMMON_REPAIR}, "half" if name.startswith("haq") else "all")
    for name in ("random", "tpe", "nsga2", "swap", "haq+")
)
"""All with the repair of the paper; `haq` has it already."""
ALONE = tuple(
    Entry(f"{name} alone", name, options, "half" if name.startswith("haq") else "all", sensitivities=False)
    for name, options in (
        ("tpe", {"warm": 0}), ("nsga2", {"warm": 0}),
        ("haq+", {"warm": 0, "strength": 0.0, "surrogate": False}), ("evo", {"warm": 0}), ("auto", {}),
    )
)  # fmt: skip
"""On P6, all without the sensitivities, and the agent without the second-order model too; `random` and `haq` never ask for them."""
ON_P6 = (*(entry for entry in OWN if entry.label in ("random", "tpe", "nsga2", "haq", "haq+", "evo", "auto", "ilp")), *ALONE)
MOST_ON_P6 = 200
SEEDS_ON_P6 = 6
SLOW_ON_P5 = {"pairwise": 50}
"""Searchers that get two seeds and fewer evaluations on the 106 dimensions, which is there for scale."""


def suite(options: argparse.Namespace) -> None:
    """Run what is missing, one line per run into `<results>/benchmarks.jsonl`, then write the tables from all that is there."""
    families = tuple(options.families.split(","))
    chosen = cases(families)
    if options.quick:
        first = {case.family: case for case in reversed(chosen)}
        rows = [_row(case, entry, 0, 50) for case in first.values() for entry in _entered(case.family)]
        print(write(rows, (20, 50), None, None))
        return
    for folder in (options.out, options.results):
        folder.mkdir(parents=True, exist_ok=True)
    store = options.results / "benchmarks.jsonl"
    if not options.tables:
        _fill(store, options, chosen)
    labels = [entry.label for entry in (*OWN, *SAME, *ALONE)]
    print(write(sorted(_read(store), key=lambda row: labels.index(row["label"])), BUDGETS, options.out, options.results))


def _fill(store: Path, options: argparse.Namespace, chosen: list[Case]) -> None:
    """Make the runs that the store lacks."""
    done = {_key(row): row["evaluations"] for row in _read(store)}
    for case, entry, seed, evaluations in _plan(chosen, options.seeds, options.evaluations):
        family, name = ("front", "P4") if case is None else (case.family, case.name)
        if done.get((family, name, entry.label, seed), 0) < evaluations:
            _append(store, _front_row(entry, seed, evaluations) if case is None else _row(case, entry, seed, evaluations))


def _plan(chosen: list[Case], seeds: int, evaluations: int) -> list[tuple[Case | None, Entry, int, int]]:
    """Return the runs (without a case: of the front of P4) in an order in which one that is stopped early is still even.

    Seed after seed; of one seed the slowest searcher, `haq`, then P2 and P5, then the front.
    """
    runs: list[tuple[float, Case | None, Entry, int, int]] = []
    for seed in range(seeds):
        for case in sorted(chosen, key=lambda case: case.family, reverse=True):
            for entry in _entered(case.family):
                slow = case.family == "P5" and entry.label in SLOW_ON_P5
                if seed < _seeds(case.family, entry, seeds, slow=slow):
                    most = min(evaluations, SLOW_ON_P5[entry.label]) if slow else evaluations
                    most = min(most, MOST_ON_P6) if case.family == "P6" else most
                    late = 0.7 * (case.family in ("P2", "P5", "P6")) + 0.5 * (entry.label == "haq")
                    runs.append((seed + late, case, entry, seed, most))
        if seed < 5 and any(case.family == "P4" for case in chosen):
            runs += [(seed + 0.8, None, entry, seed, evaluations) for entry in OWN[1:] if seed < _count(entry, seeds)]
    return [run[1:] for run in sorted(runs, key=lambda run: run[0])]


def _entered(family: str) -> tuple[Entry, ...]:
    """Return the searchers that run on a family of problems."""
    return {"P5": OWN, "P6": ON_P6}.get(family, (*OWN, *SAME))


def _seeds(family: str, entry: Entry, seeds: int, *, slow: bool) -> int:
    if slow:
        return min(2, seeds)
    return _count(entry, min(seeds, SEEDS_ON_P6) if family == "P6" else seeds)


def _count(entry: Entry, seeds: int) -> int:
    return {"all": seeds, "half": max(1, seeds // 2), "one": 1}[entry.seeds]


def _row(case: Case, entry: Entry, seed: int, evaluations: int) -> dict[str, Any]:
    """Run one searcher on one case; regret is (f - f*) / (f_uniform - f*) after each number of evaluations."""
    trace = run(
        case.problem if entry.sensitivities else replace(case.problem, sensitivity=None),
        case.measure,
        entry.searcher,
        seed=seed,
        evaluations=evaluations,
        options=entry.options,
        baselines=entry.searcher != "uniform",
        enough=case.best + 1e-9 * (case.uniform - case.best),
        least=0 if seed else TIMED,
    )
    made = max(len(trace.best), 1)
    best = np.concatenate([trace.best, np.full(evaluations - len(trace.best), trace.error)])
    regret = (best - case.best) / (case.uniform - case.best)
    near = np.flatnonzero(regret <= 0.01)
    return {
        "family": case.family, "case": case.name, "label": entry.label, "seed": seed, "evaluations": evaluations,
        "regret": {str(n): float(regret[n - 1]) for n in (1, *BUDGETS) if n <= evaluations},
        "solved_at": int(np.flatnonzero(regret <= 1e-9)[0]) + 1 if (regret <= 1e-9).any() else None,
        "near_at": int(near[0]) + 1 if len(near) else None,
        "ms_per_evaluation": 1e3 * trace.seconds / made,
    }  # fmt: skip


def _front_row(entry: Entry, seed: int, evaluations: int) -> dict[str, Any]:
    problem, measure, best = digits_front()
    volumes = front_run(problem, measure, entry.searcher, seed=seed, evaluations=evaluations, options=entry.options, at=BUDGETS)
    return {
        "family": "front", "case": "P4", "label": entry.label, "seed": seed, "evaluations": evaluations,
        "hypervolume": {str(n): volume / best for n, volume in volumes.items()},
    }  # fmt: skip


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return row["family"], row["case"], row["label"], row["seed"]


def _read(store: Path) -> list[dict[str, Any]]:
    """Return the rows; of several for the same run the last, which is the longest."""
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    rows = [{**row, "label": _present_label(row["label"])} for row in rows]
    return list({_key(row): row for row in rows}.values())


def _present_label(label: str) -> str:
    """Return "tpe, repair haq" for "tpe, haq_wall", as rows of earlier versions name a searcher with a repair."""
    searcher, _, repair = label.partition(", ")
    return f"{searcher}, repair {FORMER_NAMES[repair]}" if repair in FORMER_NAMES else label


def _append(store: Path, row: Mapping[str, Any]) -> None:
    with store.open("a") as file:
        file.write(json.dumps(row) + "\n")
