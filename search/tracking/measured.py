"""Times of policies that `bitfront measure` took, as tags of their trials' runs."""

import json
from collections.abc import Mapping

from quant_core.util.errors import BitfrontError
from search.tracking import names
from search.tracking.codec import Json, timings_of
from search.tracking.reading import family, find_sweep, journal_of


def write_timings(uri: str, ref: str, experiment_name: str | None, timings: Mapping[int, Mapping[str, Json]]) -> None:
    """Write the timings of trials (number -> key -> plain form) beside their records; one of the same key takes the place of an older one.

    Raises:
        InputError: no sweep, or more than one, is called `ref`.
        BitfrontError: the store cannot be reached, or does not hold a trial yet.
    """
    from search.tracking.client import connect, reported

    parent = find_sweep(uri, ref, experiment_name)
    runs = {row.tags.get(names.TRIAL): row for row in family(uri, parent, (names.TRIAL, names.MEASURED))[1]}
    missing = [number for number in timings if str(number) not in runs]
    if missing:
        raise BitfrontError(f"MLflow does not hold trial {missing[0]} yet; `bitfront repair {ref}` sends what it lacks.")
    client = connect(uri, journal_of(uri, parent).path.parent)
    with reported(uri):
        for number, entries in timings.items():
            row = runs[str(number)]
            times = timings_of(row.tags.get(names.MEASURED, ""))[1] | dict(entries)
            client.set_tag(row.run_id, names.MEASURED, json.dumps({"trial": number, "times": times}))
            for key, timing in entries.items():
                client.log_metric(row.run_id, f"latency_s_{key.replace('.', '_threads_')}", float(timing["latency_s"]))
