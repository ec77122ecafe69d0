"""What a shell completes at each place of a command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli.app import app
from search.cli.completion import FAMILIES

STORE = Path(__file__).parents[1] / "recorded"


def completed(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what bash is offered for the last word of a line."""
    words = line.split(" ")
    environment = {"_BITFRONT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], env=environment, prog_name="bitfront").output.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bitfront fro", ["front"]),
        ("bitfront list ta", ["tasks"]),
        ("bitfront devices show t4", ["t4"]),
        ("bitfront cost x.json --device jetson-none", []),
        ("bitfront front ", []),  # no record here: nothing, and no message
        ("bitfront show x sugg", ["suggested"]),
    ],
)
def test_a_word_is_completed(line: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed(line, monkeypatch) == words
    assert not list(tmp_path.iterdir())


def test_the_families_are_those_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    from search.cli.catalog import _families

    assert set(FAMILIES) == set(_families())
    assert completed("bitfront list ", monkeypatch) == list(FAMILIES)
