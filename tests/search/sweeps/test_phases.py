"""Phases are shown from their first second, not more often than asked for, with the time that is left."""

import io
import json

import pytest
from rich.console import Console

from search.sweeps.phases import LogMode, Phases, clock_text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def phases(mode: LogMode) -> tuple[Phases, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    return Phases(mode, Console(file=out, width=20), 5.0, clock), clock, out


def test_a_phase_is_shown_at_once_then_every_five_seconds_and_at_its_end() -> None:
    report, clock, out = phases("plain")
    report("loading task digits", 0, 0)
    for done in range(41):
        report("sensitivities", done, 40)
        clock.now += 1.0
    assert out.getvalue().splitlines() == [
        "loading task digits",
        "sensitivities: 0 of 40",
        *(f"sensitivities: {done} of 40, {clock_text(40 - done)} left" for done in range(5, 40, 5)),
        "sensitivities: 40 of 40",
    ]


def test_a_short_phase_is_one_line() -> None:
    report, clock, out = phases("plain")
    for done in range(4):
        report("test split", done, 3)
        clock.now += 0.1
    assert out.getvalue() == "test split: 0 of 3\n"


def test_json_lines_hold_the_figures_and_none_is_silent() -> None:
    report, clock, out = phases("json")
    report("sensitivities", 0, 10)
    clock.now += 6.0
    report("sensitivities", 4, 10)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"sweep": "", "phase": "sensitivities", "done": 0, "total": 10, "seconds_left": None},
        {"sweep": "", "phase": "sensitivities", "done": 4, "total": 10, "seconds_left": 9.0},
    ]
    report, _, out = phases("none")
    report("loading", 0, 0)
    assert out.getvalue() == ""


def test_days_are_hours() -> None:
    assert [clock_text(seconds) for seconds in (0.4, 59.6, 3725, 90061)] == ["0:00:00", "0:01:00", "1:02:05", "25:01:01"]


@pytest.mark.parametrize("mode", ["plain", "json", "none"])
def test_a_stop_says_what_it_waits_for_and_an_end_where_it_came(mode: LogMode) -> None:
    report, _, out = phases(mode)
    report("test split", 0, 3)
    report.stopping(1, "`bitfront resume one` continues it")
    report.stopping(4, "nothing was recorded")
    report.interrupted("nothing was recorded")
    notes = [
        "stopping: waiting for the end of the running trial; Ctrl-C again ends at once. `bitfront resume one` continues it.",
        "stopping: waiting for the end of 4 running trials; Ctrl-C again ends at once. Nothing was recorded.",
        "interrupted in phase 'test split': nothing was recorded.",
    ]
    shown = out.getvalue().splitlines()[1:]
    assert shown == ([] if mode == "none" else [json.dumps({"sweep": "", "note": note}) for note in notes] if mode == "json" else notes)
