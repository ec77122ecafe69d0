"""Changes of the process are undone."""

import contextlib
import logging
import os

import pytest

from quant_core.util.process import Shared, environment, log_levels


def test_environment_is_set_where_the_user_has_not_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_TEST_SET", "mine")
    monkeypatch.delenv("BITFRONT_TEST_NEW", raising=False)
    before = dict(os.environ)
    with contextlib.suppress(RuntimeError), environment({"BITFRONT_TEST_SET": "other", "BITFRONT_TEST_NEW": "1"}):
        assert (os.environ["BITFRONT_TEST_SET"], os.environ["BITFRONT_TEST_NEW"]) == ("mine", "1")
        raise RuntimeError
    assert dict(os.environ) == before


def test_levels_of_loggers_are_put_back() -> None:
    logger = logging.getLogger("bitfront.test_process")
    logger.setLevel(logging.INFO)
    with log_levels({logger.name: logging.CRITICAL}):
        assert logger.level == logging.CRITICAL
    assert logger.level == logging.INFO


def test_a_shared_change_lasts_until_its_last_holder_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITFRONT_TEST_NEW", raising=False)
    shared = Shared(lambda: environment({"BITFRONT_TEST_NEW": "1"}))
    shared.hold()
    with shared.held():
        shared.release()
        assert os.environ["BITFRONT_TEST_NEW"] == "1"
    assert "BITFRONT_TEST_NEW" not in os.environ
