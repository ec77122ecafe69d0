"""The gates of the searchers, judged from the runs: every gate with the figures that decide it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Judged = list[tuple[str, str, bool]]
LIMITS_MS = {"ilp": 10.0, "greedy": 10.0, "random": 10.0, "nsga2": 10.0, "swap": 10.0, "evo": 10.0, "tpe": 200.0, "haq": 150.0}


def gates(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table: what is asked, what was measured, whether it is met. A gate whose runs are not there is left out."""
    judged = [*_ilp(rows), *_auto(rows), *_agent(rows), *_alone(rows), *_evolution(rows), *_warm(rows), *_overhead(rows)]
    lines = [f"| {asked} | {measured} | {'yes' if met else 'NO'} |" for asked, measured, met in judged]
    return ["| asked | measured | met |", "|---|---|---|", *lines]


def _ilp(rows: Sequence[Row]) -> Judged:
    judgements: Judged = []
    for family in ("P1", "P2"):
        mine = _of(rows, family, "ilp")
        if mine:
            solved, slowest = sum(row["solved_at"] is not None for row in mine), max(row["ms_per_evaluation"] for row in mine)
            text = f"{solved} of {len(mine)}, slowest {slowest:.0f} ms"
            judgements.append((f"`ilp` finds every optimum of {family}, each in under 1 s", text, solved == len(mine) and slowest < 1000))
    return judgements


def _auto(rows: Sequence[Row]) -> Judged:
    judgements: Judged = []
    for family, within, needed in (("P1", 25, 9), ("P4", 300, 4)):
        mine = _of(rows, family, "auto")
        if not mine:
            continue
        hit = [row for row in mine if row["solved_at"] is not None and row["solved_at"] <= within]
        cases = {row["case"] for row in mine}
        always = cases - {row["case"] for row in mine if row not in hit}
        text = f"{len(always)} of {len(cases)} budgets with every seed; {len(hit)} of {len(mine)} runs"
        asked = f"`auto` finds the optimum of {family} within {within} evaluations at {needed} budgets"
        judgements.append((asked, text, len(always) >= needed))
    pairs = [(row, _rival(rows, row)) for family in ("P1", "P4") for row in _of(rows, family, "auto") if "300" in row["regret"]]
    judged = [(row["regret"]["300"], rival) for row, rival in pairs if rival is not None]
    if judged:
        worse = sum(mine > rival + 1e-9 for mine, rival in judged)
        asked = "`auto` at 300 is never worse than the better of `random` at 300 and `ilp` (P1, P4)"
        judgements.append((asked, f"worse in {worse} of {len(judged)} runs", worse == 0))
    return judgements


def _rival(rows: Sequence[Row], row: Row) -> float | None:
    """Return the lesser regret at 300 of `random` with the same seed and of `ilp`, on the same case; None where they were not run."""
    same = [other for other in rows if (other["family"], other["case"]) == (row["family"], row["case"]) and "300" in other["regret"]]
    rivals = [other for other in same if other["label"] == "ilp" or (other["label"], other["seed"]) == ("random", row["seed"])]
    regrets = [rival["regret"]["300"] for rival in rivals]
    return min(regrets) if len(regrets) == 2 else None


def _agent(rows: Sequence[Row]) -> Judged:
    judgements: Judged = []
    for family in ("P1", "P4"):
        names = ("haq+, repair haq", "haq", "random, repair haq")
        seeds = {row["seed"] for row in _of(rows, family, names[0])}
        runs = [[row for row in _of(rows, family, name) if row["seed"] in seeds] for name in names]
        medians = _medians(runs, "regret", ("100", "200", "300"))
        if not medians:
            continue
        texts, met = [], True
        for n, (ours, *others) in medians.items():
            texts.append(f"{n}: {ours:.4f} / {others[0]:.4f} / {others[1]:.4f}")
            met &= ours <= 1e-9 or all(ours < other for other in others)
        asked = f"median regret of `haq+` below that of `haq` and of `random` (same repair), or 0, from 100 evaluations on {family}"
        judgements.append((asked, "; ".join(texts), met))
    return judgements


def _alone(rows: Sequence[Row]) -> Judged:
    """Judge the agent at P6 without sensitivities, warm start and model against searchers that are not told the sensitivities either."""
    medians = _medians([_of(rows, "P6", label) for label in ("haq+ alone", "tpe alone", "random")], "regret", ("50", "100", "200"))
    if not medians:
        return []
    text = "; ".join(f"{n}: " + " / ".join(f"{median:.3f}" for median in entries) for n, entries in medians.items())
    asked = "median regret of `haq+` alone below that of `tpe` and of `random` alone on P6"
    return [(asked, text, all(entries[0] < min(entries[1:]) for entries in medians.values()))]


def _evolution(rows: Sequence[Row]) -> Judged:
    judgements: Judged = []
    for family, key in (("P1", "regret"), ("P2", "regret"), ("P4", "regret"), ("P5", "regret"), ("front", "hypervolume")):
        exact = _medians([_of(rows, family, label) for label in ("evo", "tpe", "nsga2")], key, ("50", "100", "300"))
        medians = {n: [abs(round(median, 4)) for median in entries] for n, entries in exact.items()}
        if medians:
            text = "; ".join(f"{n}: " + " / ".join(f"{median:.4f}" for median in entries) for n, entries in medians.items())
            asked = f"median {key} of `evo` at least as good as that of `tpe` and of `nsga2` on {family}"
            best = max if key == "hypervolume" else min
            judgements.append((asked, text, all(entries[0] == best(entries) for entries in medians.values())))
    return judgements


def _warm(rows: Sequence[Row]) -> Judged:
    judgements: Judged = []
    for family in ("P1", "P2", "P4", "P5"):
        warm, cold = (_by_case(_of(rows, family, label), "100") for label in ("tpe", "tpe cold"))
        cases = [case for case in warm if case in cold]
        if cases:
            better, worse = (sum(a[case] < b[case] - 1e-9 for case in cases) for a, b in ((warm, cold), (cold, warm)))
            medians = [abs(round(float(np.median([regrets[case] for case in cases])), 4)) for regrets in (warm, cold)]
            text = f"median regret {medians[0]:.4f} against {medians[1]:.4f}; better at {better}, worse at {worse} of {len(cases)} budgets"
            judgements.append((f"`tpe` warm is better than cold at 100 evaluations on {family}", text, medians[0] < medians[1]))
    return judgements


def _overhead(rows: Sequence[Row]) -> Judged:
    judgements: Judged = []
    for label, limit in LIMITS_MS.items():
        spent = {family: _milliseconds(_of(rows, family, label)) for family in ("P1", "P2", "P4", "P5")}
        measured = {family: time for family, time in spent.items() if time is not None}
        if measured:
            text = ", ".join(f"{family} {time:.1f}" for family, time in measured.items())
            asked = f"`{label}`: at most {limit:.0f} ms of processor time per evaluation"
            judgements.append((asked, text, max(measured.values()) <= limit))
    return judgements


def _medians(runs: Sequence[Sequence[Row]], key: str, at: Sequence[str]) -> dict[str, list[float]]:
    """Return number of evaluations -> the median of each searcher's runs, for the numbers of `at` that all of them have."""
    figures = {n: [[row[key][n] for row in entry if n in row[key]] for entry in runs] for n in at}
    return {n: [float(np.median(values)) for values in entries] for n, entries in figures.items() if all(entries)}


def _milliseconds(rows: Sequence[Row]) -> float | None:
    spent = [row["ms_per_evaluation"] for row in rows if row["seed"] == 0]
    return float(np.median(spent)) if spent else None


def _by_case(rows: Sequence[Row], at: str) -> dict[str, float]:
    cases = dict.fromkeys(row["case"] for row in rows if at in row["regret"])
    return {case: float(np.median([row["regret"][at] for row in rows if row["case"] == case and at in row["regret"]])) for case in cases}


def _of(rows: Sequence[Row], family: str, label: str) -> list[Row]:
    return [row for row in rows if row["family"] == family and row["label"] == label]
