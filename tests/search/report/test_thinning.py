"""Pictures of long sweeps: the front whole, an even share of the rest."""

from collections.abc import Callable

import pytest

from search.records.front import front_members
from search.records.record import SweepRecord
from search.report import thinning
from search.report.figures import front_figure
from search.report.thinning import drawn, thinned_title

MakeSweep = Callable[..., SweepRecord]


def test_all_of_few_and_an_even_share_of_many_are_drawn(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = make_sweep(trials=90).trials
    assert drawn(trials[::-1]) == list(trials)
    monkeypatch.setattr(thinning, "MOST_DRAWN", 30)
    assert [trial.number for trial in drawn(trials[::-1])] == list(range(0, 90, 3))
    assert thinned_title("trials", 5, 5) == "trials"


def test_the_texts_of_a_page_do_not_grow_with_the_sweep(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 trials made a page of 15 MB, most of it texts of dominated policies."""
    monkeypatch.setattr(thinning, "MOST_DRAWN", 10)
    words = []
    monkeypatch.setattr("search.report.figures.hover", lambda _sweep, trial: words.append(trial.number) or "")
    sweep = make_sweep(trials=200)
    traces = {trace.name.split(" (")[0]: trace for trace in front_figure(sweep).data}
    members = {trial.number for trial in front_members(sweep)}
    assert set(traces["front"].customdata) == members
    assert len(traces["trials"].customdata) == 10
    assert len(set(words)) <= 10 + len(members) + 3
    named = [trace.name for trace in front_figure(sweep).data if trace.name.startswith("trials")]
    assert named[0].startswith("trials (10 of 1")
