"""A store that somebody else made: nothing outside the journal's own files is touched, whatever it says."""

import gzip
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.forked import ran

ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "tests" / "search" / "recorded"
FINISHED = "c039943f8936435888523de1e245eca7"


def store(folder: Path, run_id: str, journal: str) -> None:
    """Make a store whose sweep `finished` has another run id, and another folder of its journal."""
    script = gzip.decompress((RECORDED / "mlflow.sql.gz").read_bytes()).decode()
    script = script.replace("/home/user/project/ml", f"{folder}/ml").replace("/home/user/project/.bitfront", journal)
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.executescript(script.replace(FINISHED, run_id))
    database.close()


def front(folder: Path) -> "subprocess.CompletedProcess[str]":
    return ran("front", "finished", cwd=folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("run_id", ["../..", "../victim", "{victim}", ".", "", FINISHED.upper()])
def test_a_run_id_that_is_a_path_is_refused_and_nothing_is_removed(tmp_path: Path, run_id: str) -> None:
    project, victim = tmp_path / "project", tmp_path / "victim"
    (project / ".bitfront").mkdir(parents=True)
    victim.mkdir()
    (victim / "kept.txt").write_text("kept")
    (tmp_path / "victim.jsonl").write_text("")
    store(project, run_id.format(victim=victim), "/home/user/project/.bitfront")
    before = files(tmp_path)
    shown = front(project)
    assert shown.returncode == 2
    assert "is no MLflow run id" in shown.stderr
    assert files(tmp_path) == before


def test_a_journal_folder_that_a_foreign_store_names_is_not_touched(tmp_path: Path) -> None:
    """It holds no journal of this sweep, so it is nobody's journal folder, whatever the tag says."""
    project, victim = tmp_path / "project", tmp_path / "victim"
    project.mkdir()
    (victim / FINISHED).mkdir(parents=True)
    (victim / FINISHED / "kept.txt").write_text("kept")
    store(project, FINISHED, str(victim))
    before = files(victim)
    shown = front(project)
    assert shown.returncode == 0, shown.stderr
    assert files(victim) == before
    assert sorted(path.name for path in victim.iterdir()) == [FINISHED]
