"""Credentials are blanked out in everything that is written."""

from dataclasses import replace
from pathlib import Path

import pytest

from search.tracking import names
from tests.search.tracking.cases import MakeSweep, run

pytestmark = pytest.mark.usefixtures("hasty")


def test_no_credential_is_written_anywhere(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pa55word-env")
    sweep = make_sweep("secret", trials=12)
    run(store_uri, replace(sweep, experiment=sweep.experiment + "# pa55word-env"))
    written = [path for path in Path().rglob("*") if path.is_file()]
    assert len(written) > 5
    for word in (b"s3cret-word", b"hunter2-word", b"pa55word-env"):
        assert not [path for path in written if word in path.read_bytes()]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("at postgresql://bob:hunter2@db:5432/x, then", "at postgresql://***@db:5432/x, then"),
        ("postgresql://db/x?user=bob&password=hunter2&sslmode=require", "postgresql://db/x?user=bob&password=***&sslmode=require"),
        ("https://host/path?TOKEN=abc", "https://host/path?TOKEN=***"),
        ("file:///bob:hunter2@x/runs", "file:///***@x/runs"),
        ("sqlite:////home/bob:hunter2@host/mlflow.db", "sqlite:////home/***@host/mlflow.db"),
        ("http://bob:hun@ter2@host/x", "http://***@host/x"),
        ("postgresql://bob:hun/ter2@db/x", "postgresql://***@db/x"),
        ("http://a:hunter2@x/,http://b:hunter2@y:80/z", "http://***@x/,http://***@y:80/z"),
        ("http://host:5000/path/a@b", "http://host:5000/path/a@b"),
        ("mysql://db/x?pwd=hunter2;ssl=1&aws_secret_access_key=hunter2", "mysql://db/x?pwd=***;ssl=1&aws_secret_access_key=***"),
        ("https://store/x?X-Amz-Signature=hunter2&api_key=hunter2", "https://store/x?X-Amz-Signature=***&api_key=***"),
        ("https://host/path?tokens=3&note=a@b", "https://host/path?tokens=3&note=a@b"),
        ("postgresql://bob:hun'ter2@db/x", "postgresql://***@db/x"),
        ("postgresql://bob:hun ter2@db/x", "postgresql://***@db/x"),
        ("uri = \"postgresql://bob:hun'ter 2@db/x\"\nname = 'a@b'", "uri = \"postgresql://***@db/x\"\nname = 'a@b'"),
        ('uri = "postgresql://bob:hun\\"ter2@db/x"', 'uri = "postgresql://***@db/x"'),
        ('"http://host:5000/x" and "me@work"', '"http://host:5000/x" and "me@work"'),
        ("http://host:5000 is away, says me@work", "http://host:5000 is away, says me@work"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dbob%3BPWD%3Dhunter2%3BX%3D1", "mssql+pyodbc:///?odbc_connect=UID%3Dbob%3BPWD%3D***%3BX%3D1"),
        ("host=db user=bob password=hunter2 dbname=x", "host=db user=bob password=*** dbname=x"),
        ("options = { token=5, n_tokens = 6 }", "options = { token=5, n_tokens = 6 }"),
    ],
)
def test_addresses_are_blanked(given: str, shown: str) -> None:
    assert names.redact(given) == shown


def test_redact_blanks_out_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pa55word")
    text = "cannot reach postgresql+psycopg2://user:p%40ss@db:5432/x or https://token@host/; pa55word was given"
    assert names.redact(text) == "cannot reach postgresql+psycopg2://***@db:5432/x or https://***@host/; *** was given"
    assert names.redact("sqlite:///home/me@work/mlflow.db") == "sqlite:///home/me@work/mlflow.db"
