"""Which part of an object cannot be copied or pickled, by its attribute."""

import copy
from collections.abc import Callable, Mapping, Sequence

from quant_core.util.errors import InputError

_DEEPEST = 12


def refused_part(value: object, attempt: Callable[[object], object], path: str = "", depth: int = 0) -> tuple[str, object]:
    """Return the deepest part that `attempt` (`pickle.dumps`, `copy.deepcopy`) fails on, as "model.body.lock", and its value."""
    for name, part in _parts(value) if depth < _DEEPEST else ():
        try:
            attempt(part)
        except Exception:
            return refused_part(part, attempt, f"{path}.{name}" if path else name, depth + 1)
    return path, value


def copy_refused(value: object, name: str, error: Exception) -> InputError:
    """Return the error of a value that cannot be copied, with the attribute that refuses."""
    where, part = refused_part(value, copy.deepcopy, name)
    return InputError(
        f"{where} is a {type(part).__name__}, which cannot be copied ({error}); make it where it is used, or give __deepcopy__."
    )


def _parts(value: object) -> list[tuple[str, object]]:
    """Return the parts of a value by name: entries, attributes, what a function closes over."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [(str(index), part) for index, part in enumerate(value)]
    code = getattr(value, "__code__", None)
    if code is not None:
        cells = zip(code.co_freevars, getattr(value, "__closure__", None) or (), strict=False)
        named = [(name, getattr(value, "__globals__", {}).get(name)) for name in code.co_names]
        return [(name, cell.cell_contents) for name, cell in cells] + named
    parts = dict(getattr(value, "__dict__", {}))
    for inner in ("_modules", "_parameters", "_buffers"):  # as a user writes them: model.body, not model._modules.body
        if isinstance(parts.get(inner), dict):
            parts |= parts.pop(inner)
    return list(parts.items())
