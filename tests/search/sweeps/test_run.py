"""What a run says of its time, and of a sweep before its first trial."""

from typing import Any

import pytest
import torch
from torch import nn

from quant_core.util.cache import CacheCounts
from search import tasks
from search.config.experiment import Experiment
from search.records.record import SweepRecord
from search.sweeps import run
from search.sweeps.outcome import Timings
from search.tasks.task import Task


@pytest.mark.parametrize(("workers", "evaluation_s", "idle_s"), [(1, 6.0, 2.5), (2, 6.0, 5.5), (4, 48.0, 0.0)])
def test_idle_is_what_evaluation_search_and_record_leave_of_the_loop(workers: int, evaluation_s: float, idle_s: float) -> None:
    spent = Timings(12.0, 10.0, evaluation_s, 1.0, 0.5, 1.0, workers, 0, 0, 0, CacheCounts(), CacheCounts())
    assert spent.idle_s == idle_s


class BegunError(Exception):
    """Holds the header of a sweep that would begin now."""

    def __init__(self, header: SweepRecord) -> None:
        super().__init__()
        self.header = header


def begin(_uri: str, _name: str, header: SweepRecord, _params: dict[str, Any]) -> None:
    raise BegunError(header)


@pytest.mark.parametrize(("quality", "reference"), [("error", 1.0), ("loss", 4.0)])
def test_the_reference_point_is_beyond_the_most_expensive_policy(monkeypatch: pytest.MonkeyPatch, quality: str, reference: float) -> None:
    split = [(torch.ones(4, 6), torch.zeros(4, dtype=torch.int64))]
    task = Task(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).eval(), split, split, split, split, loss=lambda y, _: y.sum() * 0 + 1
    )
    monkeypatch.setattr(tasks, "load", lambda _name, _options: task)
    monkeypatch.setattr(run.tracking, "start", begin)
    sections = {
        "task": {"name": "digits"},
        "space": {"weight": ["int4:tensor", "int8:tensor"], "activation": ["int8:tensor"]},
        "device": {"name": "counts", "objectives": [quality, "weight_bytes", "peak_activation_bytes"]},
        "search": {"searcher": "uniform"},
        "run": {"threads": 0},
    }
    with pytest.raises(BegunError) as caught:
        run.start(Experiment.model_validate(sections))
    # 6 x 32 and 32 x 2 weights of 8 bits with two scales of 4 bytes; 6 + 32 activations of 8 bits
    expected = {quality: reference, "weight_bytes": 1.05 * 264, "peak_activation_bytes": 1.05 * 38}
    assert caught.value.header.reference == pytest.approx(expected)


def test_ctrl_c_says_in_which_phase_it_came(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    split = [(torch.randn(8, 6), torch.zeros(8, dtype=torch.int64))]
    task = Task(nn.Sequential(nn.Linear(6, 2)).eval(), split, split, split, split)
    sections = {
        "task": {"name": "digits"},
        "space": {"weight": ["int4:tensor", "int8:tensor"], "activation": ["int8:tensor"]},
        "device": {"name": "counts"},
        "search": {"searcher": "uniform", "trials": 2},
        "run": {"threads": 0},
    }

    def ended(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "load", lambda _name, _options: task)
    for place, phase in (("search.sweeps.run.evaluate_front_on_test", "trials"), ("search.sweeps.setup.hash_data", "reading data")):
        monkeypatch.setattr(place, ended)
        with pytest.raises(KeyboardInterrupt):
            run.start(Experiment.model_validate(sections), "plain", recorded=False)
        assert capsys.readouterr().err.splitlines()[-1] == f"interrupted in phase '{phase}': nothing was recorded."
