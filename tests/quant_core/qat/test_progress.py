"""Every epoch has the batches that were planned for, or says so."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from quant_core.qat.progress import Progress, count_batches
from quant_core.util.errors import InputError
from tests.quant_core.qat.loop_cases import data, run, same


class Unknown:
    """An iterable without a length, which gives fewer batches in later passes."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = iter(lengths)

    def __iter__(self) -> Iterator[Any]:
        return iter(data()[: next(self.lengths)])


def test_batches_are_counted_where_they_say_no_length() -> None:
    assert count_batches(Unknown(7)) == count_batches(data(7)) == 7
    with pytest.raises(InputError, match="the training split is empty; give at least one batch"):
        count_batches([])


def test_what_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(InputError, match=r"training split is a generator, which can be read only once, .* whose __iter__ begins anew"):
        count_batches(batch for batch in data())
    with pytest.raises(InputError, match="the training split gave no batch in epoch 1; give what can be read again and again"):
        run(batches=Unknown(10, 0))


def test_an_epoch_of_another_length_is_told_and_its_mean_is_over_its_steps(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, short = run(batches=Unknown(10, 10, 4, 10, 10))
    assert "epoch 2 had 4 batches where the training split has 10" in caplog.text
    assert short[1]["loss"] > 0.2 * short[0]["loss"], "0.3, not 4 / 10 of it"
    caplog.clear()
    whole, _ = run(batches=Unknown(*[10] * 9))
    assert not caplog.text
    assert same(whole, run(batches=Unknown(*[10] * 9))[0])


def test_progress_says_nothing_of_an_epoch_that_is_whole() -> None:
    Progress(position=3).check_length(3)
