"""What a running sweep shows: a live line, plain lines, JSON lines; all of the same state."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from quant_core import Layer, Policy, parse
from search.problem.problem import Problem
from search.records.record import TrialRecord
from search.records.result import Result
from search.searchers import build
from search.sweeps.progress import LogMode, Progress
from search.sweeps.sweep import Sweep
from spaces import rules

LAYERS = [Layer(name, "linear", 4, 4, (4, 4), (1,), (1,), 16) for name in "ab"]
SPACE = rules.full(LAYERS, {"weight": [parse(f"int{bits}:channel") for bits in (2, 4, 8)], "activation": [parse("int8:tensor")]})
PROBLEM = Problem(SPACE.cardinalities, ("error", "weight_bytes"), SPACE.sites, {"weight_bytes": (np.array([2.0, 4.0, 8.0]),) * 2})


class Nowhere:
    def record(self, trial: TrialRecord) -> None:
        pass

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        pass


def result(policy: Policy, number: int) -> Result:
    error = sum(2.0 ** -policy[name].weight.bits for name in policy) / 3
    cost = {"weight_bytes": float(sum(policy[name].weight.bits for name in policy))}
    if number == 1:
        return Result(policy.id, {}, cost, status="failed", reason="no such kernel")
    return Result(policy.id, {"error": error, "accuracy": 1 - error}, cost)


def shown(mode: LogMode, *, terminal: bool = False, every: float = 0.0) -> tuple[Sweep, list[str]]:
    """Run eight trials, with three retries and one busy worker of two; return the sweep and what was written."""
    sweep = Sweep(SPACE, PROBLEM, build("random", PROBLEM, 0, 8), "random", 8, PROBLEM.objectives, (1.0, 20.0), Nowhere())
    out = io.StringIO()
    with Progress(sweep, 2, mode, Console(file=out, force_terminal=terminal, width=300), every) as progress:
        progress.update()
        sweep.retried, sweep.busy = 3, 1
        while evaluation := sweep.next():
            sweep.finish(evaluation.number, result(evaluation.policy, evaluation.number))
            progress.update()
    return sweep, out.getvalue().splitlines()


def test_json_lines_hold_every_figure() -> None:
    sweep, lines = shown("json")
    first, *_, last = map(json.loads, lines)
    assert (first["done"], first["retried"], first["busy"], first["best_accuracy"], first["seconds_left"]) == (0, 0, 0, None, None)
    assert {name: last[name] for name in ("done", "trials", "failed", "repeated", "retried", "busy", "workers", "front")} == {
        "done": 8,
        "trials": 8,
        "failed": sweep.failed,
        "repeated": sweep.repeated,
        "retried": 3,
        "busy": 1,
        "workers": 2,
        "front": len(sweep.archive.numbers),
    }
    assert last["hypervolume"] == sweep.archive.hypervolume > 0
    assert last["best_accuracy"] == max(sweep.records[number].result.metrics["accuracy"] for number in sweep.archive.numbers)
    assert last["per_second"] > 0
    assert last["seconds_left"] == 0


@pytest.mark.parametrize(("mode", "terminal"), [("plain", False), ("auto", False), ("auto", True)])
def test_lines_for_people_hold_the_same(mode: LogMode, terminal: bool) -> None:
    sweep, lines = shown(mode, terminal=terminal)
    counts = f"trial 8/8 | failed {sweep.failed} | repeated {sweep.repeated} | retried 3 | workers busy 1/2 | best under the budget"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(lines))
    assert counts in text
    assert (f"front {len(sweep.archive.numbers)} | hypervolume {sweep.archive.hypervolume:.4f}") in text
    assert ("\x1b[" in "".join(lines)) == terminal, "only a terminal gets control characters"


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    _, lines = shown("plain", every=3600.0)
    assert len(lines) == 1
    assert lines[0].startswith("trial 8/8")


def test_trials_that_were_stopped_early_are_counted_apart() -> None:
    sweep = Sweep(SPACE, PROBLEM, build("random", PROBLEM, 0, 8), "random", 8, PROBLEM.objectives, (1.0, 20.0), Nowhere())
    out = io.StringIO()
    with Progress(sweep, 1, "plain", Console(file=out, width=300), 0.0) as progress:
        while evaluation := sweep.next():
            status = "stopped" if evaluation.number % 2 else "ok"
            sweep.finish(evaluation.number, replace(result(evaluation.policy, 0), status=status))
            progress.update()
        assert progress.state(0.0)["stopped"] == sweep.stopped == 4
    assert f"failed 0 | repeated {sweep.repeated} | stopped early 4 | retried 0" in out.getvalue()


def test_the_time_left_of_a_sweep_of_two_days_is_that_of_its_own_clock() -> None:
    """Eight trials of six hours each: 42, 36, ... 0 hours are left after them, as h:mm:ss beyond a day."""
    sweep = Sweep(SPACE, PROBLEM, build("random", PROBLEM, 0, 8), "random", 8, PROBLEM.objectives, (1.0, 20.0), Nowhere())
    out, now = io.StringIO(), 1e6
    with Progress(sweep, 1, "plain", Console(file=out, width=300), clock=lambda: now) as progress:
        while evaluation := sweep.next():
            now += 6 * 3600
            sweep.finish(evaluation.number, result(evaluation.policy, evaluation.number))
            progress.update()
    left = [re.search(r"\| (\S+) left", line) for line in out.getvalue().splitlines()]
    assert [match[1] for match in left if match] == [f"{hours}:00:00" for hours in range(42, -6, -6)]
