"""How many trials a picture draws: the front whole, of the many beside it an even share."""

from collections.abc import Sequence

from search.records.record import TrialRecord

MOST_DRAWN = 2_000
"""Trials beside the front that a picture draws: each with its text takes some 600 bytes of a page, and time in a browser."""


def drawn(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return all trials, or `MOST_DRAWN` of them at even distances in the order of their numbers."""
    ordered = sorted(trials, key=lambda trial: trial.number)
    if len(ordered) <= MOST_DRAWN:
        return ordered
    return [ordered[i * len(ordered) // MOST_DRAWN] for i in range(MOST_DRAWN)]


def thinned_title(title: str, shown: int, there: int) -> str:
    """Return the title of a group, with how many of it are drawn where that is not all.

    >>> thinned_title("trials", 2000, 19960)
    'trials (2,000 of 19,960)'
    """
    return title if shown == there else f"{title} ({shown:,} of {there:,})"
