"""Tables of interchangeable things: a name, or a user's own `package.module:attribute`, resolved when asked for."""

import ast
import difflib
import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.text import LONGEST, given, listed

COMPARED = 1000
"""Names that one is compared with for a suggestion: it takes milliseconds."""


def suggest(name: str, names: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest of the names, or the empty string."""
    near = difflib.get_close_matches(name[:LONGEST], list(islice(names, COMPARED)), n=1, cutoff=0.6)
    return f" Did you mean {given(near[0])}?" if near else ""


def unknown(family: str, name: str, names: Iterable[str]) -> InputError:
    """Return the error for a name that `family` does not hold; it lists the names that it holds."""
    allowed = sorted(names)
    return InputError(f"unknown {family} {given(name)}; known: {listed(allowed, 40)}.{suggest(name, allowed)}")


def load(path: str) -> object:
    """Import `package.module:attribute`.

    Raises:
        InputError: the module cannot be imported or lacks the attribute.
        BitfrontError: the module itself fails.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"cannot import {module_name!r} of {path!r}: {error}. Is it installed or on PYTHONPATH?") from error
    except Exception as error:  # whatever a user's own module does while it is imported
        raise BitfrontError(f"importing {module_name!r} of {path!r} failed with {type(error).__name__}: {error}") from error
    try:
        value: object = getattr(module, attribute)
    except AttributeError:
        raise InputError(f"module {module_name!r} has no {attribute!r} (given: {path!r}).{suggest(attribute, dir(module))}") from None
    return value


def about(path: str) -> str:
    """Return the first sentence about `package.module:attribute`, or else about its module, read from the source: nothing is imported."""
    module_name, _, attribute = path.partition(":")
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        return ""
    module = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    named = [node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute]
    text = next((docstring for node in (*named, module) if (docstring := ast.get_docstring(node))), "")
    return re.split(r"\.\s+(?=[A-Z])", " ".join(text.partition("\n\n")[0].split()))[0].removesuffix(".")


def resolve(table: Mapping[str, str], family: str, name: str) -> object:
    """Resolve `name`: an entry of `table`, or the user's own `package.module:attribute`.

    Raises:
        InputError: the name is not in the table, or the path cannot be imported.
    """
    if name in table:
        return load(table[name])
    if ":" in name:
        return load(name)
    raise InputError(f"{unknown(family, name, table)} Your own goes in as 'package.module:attribute'.")
