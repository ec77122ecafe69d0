"""The blocks and command lines of the pages: commands are read by the command line itself, experiments by the experiment file's reader.

Here they are read; `test_runs.py` runs them.
"""

import ast
import builtins
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from search.cli.commands import COMMANDS, load
from search.config.files import loads
from tests.docs.test_pages import DOCS, ROOT, exists

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
GIVEN = {
    "qat.md": {"batches", "policy", "task"},
    "searchers-details.md": {"losses", "problem"},
    "export.md": {"network", "example"},
    "own-task.md": {
        *("LitNet", "LitData", "FOLDER", "datasets", "worst_group", "AutoModelForSequenceClassification"),
        *("AutoTokenizer", "DataCollatorWithPadding", "DataLoader"),
    },
}
"""Page -> names of its blocks that the text around them gives."""


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the command lines of a page: lines that begin with `bitfront`, and those between backquotes that have arguments."""
    text = page.read_text()
    lines = re.findall(r"^(?: {4,}|\$ )?bitfront ([a-z].*)$", text, flags=re.M) + re.findall(r"`bitfront ([a-z][^`]* [^`]*)`", text)
    for line in lines:
        plain = re.sub(r"[\[\]]", " ", line.split("\\|")[0].split(" | ")[0])  # options that may be left out are read too
        if "<-" in line or "`" in line or line.split()[0] not in COMMANDS:
            continue
        yield shlex.split(plain, comments=True)


@BY_PAGE
def test_the_command_line_takes_every_command_of_a_page(page: Path) -> None:
    refused: list[tuple[list[str], str]] = []
    for words in commands(page):
        try:
            load(words[0]).make_context(words[0], words[1:])
        except Exception as error:
            if "Missing" not in str(error) and "requires an argument" not in str(error):  # `bitfront solve --out` names an option
                refused.append((words, str(error)))
    assert not refused


def test_many_command_lines_are_read() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 70


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a document with a fragment of another put into it, section by section."""
    return base | {key: {**base.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()}


@BY_PAGE
def test_every_experiment_of_a_page_is_one(page: Path) -> None:
    base = tomllib.loads((ROOT / "examples/digits.toml").read_text())
    for block in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), flags=re.S | re.M):
        document = tomllib.loads(block)
        if {"identity", "capability", "nodes"} & document.keys():
            continue  # a device file
        loads(tomli_w.dumps(merged(base, document)), page.name)


@BY_PAGE
def test_python_blocks_import_what_there_is_and_say_where_names_come_from(page: Path) -> None:
    known = set(dir(builtins)) | GIVEN.get(page.name, set())
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.S | re.M):
        tree, used = ast.parse(block), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                known |= {alias.asname or alias.name for alias in node.names}
                ours = (ROOT / (node.module or "").partition(".")[0]).is_dir() and "." in (node.module or "")
                assert not ours or [a.name for a in node.names if not exists(f"{node.module}.{a.name}")] == [], ast.unparse(node)
            elif isinstance(node, ast.Import):
                known |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
            elif isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        assert used <= known, f"{page.name}: {sorted(used - known)}"
