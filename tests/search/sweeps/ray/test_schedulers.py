"""Trials that a scheduler of Ray Tune stops: recorded as stopped with how far they came, never on the front, never failed."""

from pathlib import Path

import pytest

from tests.search.sweeps.ray.cases import Command, Nodes

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
OTHER = (
    ('{ bits = [2, 4, 8], granularity = "channel", clipping = "mse" }', '{ bits = [2, 3, 4, 8], granularity = "channel" }'),
    ('["int8:tensor", "int4:tensor:mse"]', '["int8:tensor", "int2:tensor", "int3:tensor"]'),
    ("[track]", "[evaluate]\n{evaluate}\n[track]"),
)
"""What differs in the experiment: more choices, and how policies are evaluated."""


def written(command: Command, nodes: Nodes, searcher: str, trials: int, evaluate: str) -> str:
    path = command.write("early", nodes.run(), searcher=searcher, trials=trials)
    text = Path(path).read_text()
    for old, new in OTHER:
        assert old in text
        text = text.replace(old, new.replace("{evaluate}", evaluate))
    Path(path).write_text(text)
    return path


def test_asha_stops_trials_that_then_are_neither_on_the_front_nor_failed(command: Command, nodes: Nodes) -> None:
    evaluate = 'fidelity = "qat"\nepochs = 3\nqat = { method = "ste", lr = 0.02 }'
    code, _, said = command("sweep", written(command, nodes, "ray:ASHA+random", 22, evaluate), "--log", "plain")
    assert code == 0, said
    rows = command.rows("early")
    assert [row["trial"] for row in rows] == list(range(22))
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert {row["status"] for row in rows} == {"ok", "stopped"}
    assert 3 <= len(stopped) <= 20
    assert f"0 failed, {sum(row['repeated'] >= 0 for row in rows)} repeated, {len(stopped)} stopped early" in said
    assert not [row for row in stopped if row["front"] or row["origin"] == "baseline"]
    assert {row["fidelity"] for row in rows if row["status"] == "ok"} == {"qat"}
    reached = {row["fidelity"] for row in stopped}
    assert reached <= {"ptq, 37 calibration examples", "ptq", "qat, epoch 1 of 3", "qat, epoch 2 of 3"}
    assert all(row["reason"] == f"stopped early at {row['fidelity']}" for row in stopped)


def test_a_scheduler_leaves_the_ladder_alone(command: Command, nodes: Nodes) -> None:
    evaluate = 'ladder = ["qat"]\ntop_k = 2\nepochs = 1'
    code, _, said = command("sweep", written(command, nodes, "ray:ASHA+OptunaSearch", 10, evaluate), "--log", "plain")
    assert code == 0, said
    rows = command.rows("early")
    assert [(row["fidelity"], row["status"]) for row in rows[10:]] == [("qat", "ok")] * 2
    assert "stopped" in {row["status"] for row in rows[:10]}
