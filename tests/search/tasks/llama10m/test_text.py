"""The documentation that Python ships: docstrings are parsed, nothing is imported."""

import sys
from pathlib import Path

import pytest

from search.tasks.llama10m import text
from search.tasks.llama10m.text import SHORTEST, docstrings_of, documents


def test_docstrings_of_all_kinds_are_taken_and_no_code_runs(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""A module."""\nraise SystemExit\nclass C:\n    """A class."""\n    async def f(self):\n        """A function."""\n')
    assert docstrings_of(path) == "A module.\n\nA class.\n\nA function."


@pytest.mark.parametrize("content", ["def broken(", "x = 1", "\0"])
def test_files_without_any_give_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(content)
    assert docstrings_of(tmp_path / "module.py") == ""
    assert docstrings_of(tmp_path / "absent.py") == ""


def test_topics_and_modules_are_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, length in (("long", SHORTEST), ("short", SHORTEST - 1), ("test/long", SHORTEST)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(f'"""{"x" * length}"""')
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    made = documents()
    assert made[-1] == "x" * SHORTEST
    assert made.count("x" * SHORTEST) == 1
    assert any('The "if" statement' in document for document in made)


def test_importing_the_module_imports_no_topics() -> None:
    assert text.__name__ in sys.modules
    assert "idlelib" not in sys.modules
