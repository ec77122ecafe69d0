"""What hostile input may cost: our own kinds of errors only, short ones, and a counted number of calls, never a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from quant_core.util.errors import BitfrontError, InputError

CALLS = 1_000_000  # of functions in Python and C, those of imports too; an ordinary reading takes up to 10,000


@contextmanager
def only_ours(kind: type[BitfrontError] = InputError, limit: int = 20_000, calls: int = CALLS) -> Iterator[None]:
    """Let errors of one of our kinds pass, if they fit on a few screens and took few calls of functions. Draw texts before."""
    made = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    except kind as error:
        if len(str(error)) >= limit:
            raise AssertionError(f"an error of {len(str(error))} characters") from None
    finally:
        sys.setprofile(before)
    assert made < calls, f"{made} calls of functions"
