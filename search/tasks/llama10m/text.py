"""The documentation that Python ships, as text: `pydoc_data.topics` and the docstrings of the standard library, parsed, never imported."""

import ast
import itertools
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
SHORTEST = 200
"""Characters of a document; a module with less text is left out."""


def documents() -> list[str]:
    """Return the language reference's topics and the docstrings of each module of the standard library, a text each, in a fixed order."""
    from pydoc_data.topics import topics

    return [text for text in itertools.chain((topics[name] for name in sorted(topics)), _docstrings()) if len(text) >= SHORTEST]


def _docstrings() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _LEFT_OUT & set(path.relative_to(root).parts):
            yield docstrings_of(path)


def docstrings_of(path: Path) -> str:
    """Return the docstrings of a file's module, classes and functions, a blank line between them; "" where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the file's strings
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
    return "\n\n".join(text for text in texts if text)
