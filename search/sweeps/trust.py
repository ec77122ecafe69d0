"""Whose sweeps may run code here: those of ready parts, those that this user started or trusted before, and no others.

A record names its task, and may name a searcher, a backend, a network or a device, as `package.module:attribute`; loading it runs that
code. A store that somebody else made could name anything, so a sweep that was not started here asks for `--trust`, once.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from hw_models.loading import device_names
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder, write_text
from quant_core.util.text import given, listed
from search.config.experiment import Experiment
from search.config.files import loads
from search.config.schedulers import RAY
from search.records.record import SweepRecord
from search.tasks import TASK_OBJECT
from search.tracking.spool import RUN_ID

_ATTRIBUTE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
SECTIONS = ("task", "search", "evaluate", "run")


def own_code(experiment: Experiment, *, task_given: bool = False) -> tuple[str, ...]:
    """Return every part of an experiment, as `key = value`, that runs code which is not bitfront's; not its task where one is given."""
    data = experiment.model_dump(mode="json", exclude_none=True)
    parts = [part for section in SECTIONS if not (task_given and section == "task") for part in _texts(section, data[section])]
    code = [f"{key} = {given(text)}" for key, text in parts if _is_code(text)]
    device = experiment.device.name
    return (*code, *([f"device.name = {given(device)}"] if device not in device_names() else []))


def remember(record: SweepRecord) -> None:
    """Note that a sweep was started or trusted here; where the note cannot be written, the sweep asks for trust later."""
    if own_code(loads(record.experiment, f"experiment of sweep {record.name}")):
        with contextlib.suppress(InputError):
            write_text(_note(record), _digest(record))


def require_trust(record: SweepRecord, trust: bool, *, task_given: bool = False) -> None:
    """Refuse a sweep whose record would run code that nobody here has trusted; `trust` is remembered.

    Args:
        record: of the sweep.
        trust: the user says that whoever made the record is trusted.
        task_given: the task is at hand, so the one that the record names is not loaded.

    Raises:
        InputError: naming what would run.
    """
    code = own_code(loads(record.experiment, f"experiment of sweep {record.name}"), task_given=task_given)
    if not code or _is_known(record):
        return
    if not trust:
        raise InputError(
            f"sweep {given(record.name)} was not started here by you, and its record would run code: {listed(code)}. Look at that code; "
            f"if you trust it and whoever made the record, add --trust (in Python: trust=True). It is asked for once."
        )
    remember(record)


def _is_code(text: str) -> bool:
    return bool(_ATTRIBUTE.fullmatch(text)) and text != TASK_OBJECT and not text.startswith(RAY)


def _is_known(record: SweepRecord) -> bool:
    try:
        return _note(record).read_text(encoding="utf-8") == _digest(record)
    except (OSError, UnicodeDecodeError):
        return False


def _note(record: SweepRecord) -> Path:
    """Return the file that says that a sweep was started or trusted here.

    Raises:
        InputError: the run id is no run id.
    """
    if not RUN_ID.fullmatch(record.run_id):
        raise InputError(f"{given(record.run_id)} is no MLflow run id (32 hexadecimal digits).")
    folder = cache_folder() if os.environ.get("BITFRONT_CACHE") else Path(platformdirs.user_state_dir("bitfront", appauthor=False))
    return folder / "trusted-sweeps" / record.run_id


def _digest(record: SweepRecord) -> str:
    """Return a hash of what a record would run and is bound to: a record that was changed since is another one."""
    prints = "\n".join(f"{name}={value}" for name, value in sorted(record.fingerprints.items()))
    return hashlib.sha256(f"{record.run_id}\n{prints}\n{record.experiment}".encode()).hexdigest()


def _texts(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield every text in a section, with its key."""
    if isinstance(value, str):
        yield key, value.strip()
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(key, inner)
