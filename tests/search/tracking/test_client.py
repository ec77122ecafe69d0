"""Connecting to a store: refusals that name the remedy, and tables that are made once only."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError, InputError
from search import tracking
from search.tracking.client import MlflowClient, connect, reported
from tests.forked import Started
from tests.search.tracking.cases import PARAMS, MakeSweep

pytestmark = pytest.mark.usefixtures("hasty")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("API request to endpoint /x failed with error code 401 != 200", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("API request to endpoint /x failed with error code 403 != 200", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("connection refused", "Is the address right and the server running"),
    ],
)
def test_a_refusal_says_what_to_do(error: str, hint: str) -> None:
    with pytest.raises(BitfrontError, match=f"MLflow at https://x failed: RuntimeError: {error}. {hint}"), reported("https://x"):
        raise RuntimeError(error)


def test_stores_that_cannot_be_used(tmp_path: Path, make_sweep: MakeSweep, store_uri: str) -> None:
    with pytest.raises(InputError, match=r"no record at sqlite:///.*absent\.db.* does not exist\. Run this where the sweep ran"):
        tracking.read(f"sqlite:///{tmp_path}/absent.db", "x")
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(InputError, match=r"tracking uri '\./mlruns' given; write sqlite:///FILE\.db"):
        tracking.start("./mlruns", "bitfront", make_sweep(), PARAMS)
    with pytest.raises(BitfrontError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9 failed: .* Is the address right") as caught:
        tracking.start("http://me:hunter2-word@127.0.0.1:9", "bitfront", make_sweep(), PARAMS)
    assert "hunter2-word" not in str(caught.value)
    client = MlflowClient(store_uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="the MLflow experiment 'gone' was deleted; restore it"):
        tracking.start(store_uri, "gone", make_sweep(), PARAMS)


FIRST_USE = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from search.tracking.client import connect, experiment_id
client = connect("sqlite:///fresh.db", Path(".bitfront"))
print(experiment_id(client, "bitfront", "sqlite:///fresh.db"))
"""


@pytest.mark.slow
def test_two_sweeps_may_be_the_first_to_use_a_store(tmp_path: Path) -> None:
    code = FIRST_USE.format(root=str(ROOT))
    both = [Started(script=code, cwd=tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=600)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1] != ""


def test_store_whose_making_is_cut_off_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow makes its tables in many steps; a file that holds some of them can never be opened again."""

    def killed(tracking_uri: str, registry_uri: str) -> None:
        with closing(sqlite3.connect(tracking_uri.removeprefix("sqlite:///"))) as database:
            database.execute("CREATE TABLE webhooks (id TEXT)")
        raise KeyboardInterrupt

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr("search.tracking.client.MlflowClient", killed)
        with pytest.raises(KeyboardInterrupt):
            connect(uri, tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    assert len(connect(uri, tmp_path).search_experiments()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.lock"]
