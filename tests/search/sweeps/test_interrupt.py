"""The first signal is told and sets a flag, the second ends; the hint is a command that can be typed."""

import os
import signal
import threading

import pytest

from search.sweeps.interrupt import StopSignal, resume_hint


def test_the_first_signal_is_told_and_the_second_ends_at_once() -> None:
    told: list[str] = []
    heard = threading.Event()

    def tell() -> None:
        told.append("waits")
        heard.set()

    before = signal.getsignal(signal.SIGINT)
    with StopSignal(tell) as stopping:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping()
        assert heard.wait(300)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert told == ["waits"]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_hint_holds_the_sweeps_name_and_its_store_where_it_is_another_but_no_password() -> None:
    assert resume_hint("one", "sqlite:///mlflow.db") == "`bitfront resume one` continues it"
    assert resume_hint("one", "http://me:word@host:5000") == "`bitfront resume one --uri http://***@host:5000` continues it"
    assert resume_hint("", "") == "nothing was recorded"
