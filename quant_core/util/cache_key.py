"""Keys of cached results: what was computed, by which code, from which inputs. A key that lacks one of them returns stale figures."""

import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def code_hash(*modules: str) -> str:
    """Return a hash of the sources of modules; of a package, of every module in it. Nothing is imported but the packages above.

    Raises:
        ValueError: there is no such module.
    """
    digest = hashlib.sha256()
    for path in sorted(path for module in modules for path in _sources(module)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(module: str) -> Iterable[Path]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {module!r} given; there is none with a source file.")
    return Path(spec.origin).parent.rglob("*.py") if spec.submodule_search_locations else (Path(spec.origin),)


def cache_key(kind: str, code: tuple[str, ...], *inputs: object) -> str:
    """Return the key, 32 hexadecimal digits, of a cached result.

    Args:
        kind: of result, such as "sensitivity".
        code: modules and packages that compute it; a change in any of them is another key.
        inputs: everything else that it depends on; their `repr` must say all of it.
    """
    return hashlib.sha256(repr((kind, code_hash(*code), inputs)).encode()).hexdigest()[:32]
