"""What a shell completes: sweeps, policies, devices, families. A completion never fails and never writes; without a record it is empty."""

import contextlib
import sqlite3

import typer

from quant_core.util.errors import BitfrontError
from search.config.store import DEFAULT_URI

FAMILIES = ("formats", "clippings", "roundings", "searchers", "tasks", "qat-methods", "exporters", "backends", "schedulers")
"""What `bitfront list` lists."""
UNREADABLE = (BitfrontError, OSError, sqlite3.Error, KeyError, ValueError)
"""What a record that cannot be read raises: a shell shows no message while it completes."""


def sweep_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the recorded sweeps that begin so, the latest first, and `latest`."""
    from search.tracking import names
    from search.tracking.reading import LATEST, sweeps

    with contextlib.suppress(*UNREADABLE):
        rows = sweeps(_uri(context), context.params.get("mlflow_experiment"))
        recorded = dict.fromkeys(row.tags[names.SWEEP] for row in reversed(rows))
        return [name for name in (*recorded, LATEST) if name.startswith(incomplete)]
    return []


def policy_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the policies of a sweep's front that begin so, each with its figures, and the words that pick one."""
    from search.records.front import figures, front_members
    from search.records.units import shown
    from search.tracking import read
    from search.tracking.reading import LATEST

    words = [(word, "a word for a policy") for word in ("suggested", "knee")]
    with contextlib.suppress(*UNREADABLE):
        record = read(_uri(context), context.params.get("sweep") or LATEST, context.params.get("mlflow_experiment"))
        for trial in front_members(record):
            values = [f"{name} {shown(name, figures(trial)[name], record.metrics)}" for name in record.objectives]
            words.append((trial.policy.id, ", ".join(values)))
    return [(word, about) for word, about in words if word.startswith(incomplete)]


def device_files(incomplete: str) -> list[str]:
    """Return the devices that begin so."""
    from hw_models.loading import device_names

    return [name for name in device_names() if name.startswith(incomplete)]


def family_names(incomplete: str) -> list[str]:
    """Return the families of `bitfront list` that begin so."""
    return [name for name in FAMILIES if name.startswith(incomplete)]


def _uri(context: typer.Context) -> str:
    """Return the store that the words before name: the option, the environment, or that of the folder."""
    return str(context.params.get("uri") or DEFAULT_URI)
