"""The benchmark of races: a policy is computed to its end once, and runs are compared at the loss that both reach."""

from pathlib import Path

import pytest

from benchmarks import race, stores
from benchmarks.race import Replaying, Run, table
from quant_core.network.trace import trace
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, parse
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs
from search.evaluation.racing import Incumbent
from tests.search.evaluation.test_racing import task

PLAIN = Run("net", 0, 3.7, None, 5, 0, 500, 100, [[100, 0.9], [400, 0.5], [500, 0.4]])
RACED = Run("net", 0, 3.7, 0.95, 5, 3, 240, 100, [[100, 0.9], [140, 0.5], [240, 0.45]])


def test_runs_are_compared_at_the_loss_that_both_reach(tmp_path: Path) -> None:
    stores.append(tmp_path / "runs.jsonl", PLAIN)
    stores.append(tmp_path / "runs.jsonl", RACED)
    assert stores.recorded(tmp_path / "runs.jsonl", Run) == [PLAIN, RACED]
    line = "| net | 0 | 0.95 | 3 of 5 | 240 | 500 | 0.4500 | 0.4000 | 240 / 500 | 0.48 |"
    assert table([PLAIN, RACED]).splitlines()[2:] == [line]
    assert RACED.needed(0.1) == float("inf")


def test_a_replayed_evaluation_loses_where_it_would_have_lost() -> None:
    of = task()
    measured = Evaluator(of, trace(of.model, first_inputs(of)), EvaluateSection())
    replaying, passes = Replaying(measured), []
    good, bad = (Policy({name: LayerPolicy(parse(text), FLOAT) for name in "024"}) for text in ("int8:channel", "binary:channel"))
    measured.engine.apply(good).register_forward_hook(lambda *_: passes.append(1))
    watch = replaying.watch("loss", None, 0.95)
    best = Incumbent(0, replaying(good, watch=watch).metrics["loss"], watch.course)
    whole = replaying(bad)
    done = len(passes)
    replayed = replaying(bad, watch=replaying.watch("loss", best, 0.95))
    assert (replayed.status, len(passes)) == ("stopped", done), "nothing is computed"
    computed = measured(bad, watch=measured.watch("loss", best, 0.95))
    assert (replayed.examples, replayed.reason, replayed.estimate) == (computed.examples, computed.reason, computed.estimate)
    assert replaying(bad) == whole


def test_a_recorded_run_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "runs.jsonl"
    for confidence, times in race.RACES:
        stores.append(store, Run("mobilenetv2", 0, 3.7, confidence, 5 * times, 0, 500, 100, [[100, 0.9]]))
    monkeypatch.setattr(race, "opened", None)
    race.main(["--networks", "mobilenetv2", "--seeds", "1", "--trials", "5", "--results", str(store)])
    assert capsys.readouterr().out.count("mobilenetv2") == len(race.RACES) - 1
