"""Journals whose sweep a store does not have: it was removed, or replaced by another. Free of mlflow."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant_core.util.errors import BitfrontError
from search.tracking import names
from search.tracking.outage import SQLITE
from search.tracking.spool import FOLDER, RUN_ID, Spool

BEGIN = "begin"


@dataclass(frozen=True)
class Orphan:
    """A journal, and from its first line all that is needed to begin its sweep in another store."""

    journal: Spool
    name: str
    experiment: str
    tags: dict[str, str]

    @property
    def trials(self) -> int:
        """How many trials the journal holds."""
        return len({str(line["trial"].get("number")) for line in self.journal.all_lines() if line["op"] == "trial"})


def folders(uri: str) -> list[Path]:
    """Return where journals are looked for: beside a SQLite store, and here."""
    beside = [Path(uri.removeprefix(SQLITE)).absolute().parent / FOLDER] if uri.startswith(SQLITE) else []
    return list(dict.fromkeys([*beside, FOLDER.absolute()]))


def orphans(uri: str, stored: Iterable[str]) -> list[Orphan]:
    """Return the journals near a store whose run ids are not among those that it has."""
    there = set(stored)
    return [
        orphan
        for folder in folders(uri)
        for path in sorted(folder.glob("*.jsonl"))
        if RUN_ID.fullmatch(path.stem) and path.stem not in there and (orphan := _orphan(Spool(folder, path.stem)))
    ]


def hint(uri: str, ref: str, stored: Iterable[str]) -> str:
    """Return a sentence that names the journals of lost sweeps that `ref` may mean; "" where there is none."""
    near = orphans(uri, stored)
    meant = [orphan for orphan in near if ref in (orphan.name, orphan.journal.path.stem)] or near
    return "".join(
        f" {orphan.journal.path} holds {orphan.trials} trials of sweep {orphan.name!r}, which this store does not have: "
        f"`bitfront repair {orphan.name}` writes them to it."
        for orphan in meant[:3]
    )


def _orphan(journal: Spool) -> Orphan | None:
    line: dict[str, Any] = next((line for line in journal.all_lines() if line["op"] == BEGIN), {})
    try:
        tags = {str(key): str(text) for key, text in line["tags"].items()}
        return Orphan(journal, tags[names.SWEEP], str(line["experiment"]), tags)
    except (LookupError, AttributeError, BitfrontError):
        return None
