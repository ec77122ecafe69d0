"""Recorded times of policies in real runtimes, in words. A record may be a stranger's: only known fields are shown, as text."""

import math
from collections.abc import Mapping

from quant_core.util.text import printable

_LONGEST = 80


def sentence(timing: Mapping[str, object]) -> str:
    """Return a recorded time in words: `openvino 2026.4.1, 1 thread, EPYC, 2026-11-29: 2.1 ms, float32 4.9 ms: 2.3 x faster ...`."""
    threads = _number(timing, "threads")
    where = [f"{_text(timing, 'runtime')} {_text(timing, 'version')}", f"{threads:.0f} thread{'s' * (threads != 1)}"]
    where += [_text(timing, "cpu"), _text(timing, "date")]
    taken, plain = (_number(timing, name) * 1e3 for name in ("latency_s", "float32_latency_s"))
    return f"{', '.join(where)}: {taken:.3g} ms, float32 {plain:.3g} ms: {verdict(_number(timing, 'ratio'))}"


def row(policy: str, timing: Mapping[str, object]) -> dict[str, object]:
    """Return a recorded time as the line of a table, in milliseconds."""
    return {
        "policy": policy,
        "runtime": f"{_text(timing, 'runtime')} {_text(timing, 'version')}",
        "threads": f"{_number(timing, 'threads'):.0f}",
        "ms": f"{_number(timing, 'latency_s') * 1e3:.4g}",
        "float32 ms": f"{_number(timing, 'float32_latency_s') * 1e3:.4g}",
        "integer layers": _text(timing, "integer_layers"),
        "verdict": verdict(_number(timing, "ratio")),
    }


def verdict(ratio: float) -> str:
    """Return whether a policy pays in words; `ratio`: its time over that of float32."""
    if 0.95 < ratio < 1.05:
        return "as fast as float32 here"
    return f"{1 / ratio:.1f} x faster than float32 here" if 0 < ratio < 1 else f"float32 is faster here: {ratio:.1f} x"


def _number(timing: Mapping[str, object], name: str) -> float:
    value = timing.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _text(timing: Mapping[str, object], name: str) -> str:
    return printable(str(timing.get(name, "")), _LONGEST)
