"""Limits of an experiment: of costs, absolute or relative to a reference network; of the task's metrics, also in points from float."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from search.config.file_forms import LimitForm

_NUMBER = r"([0-9.]+(?:[eE][-+]?\d+)?)"
_BUDGET = re.compile(rf"(<=|>=)?\s*{_NUMBER}\s*(%?)\s*(?:of\s+(float|int8))?")
_POINTS = re.compile(rf"(?:(?:<=|>=)?\s*float\s*([-+])\s*{_NUMBER}\s*(?:points?)?|{_NUMBER}\s*points?(?:\s+of\s+float)?)")
_ALLOWED = "write a positive number in SI units, or '0.25 of float', or '60% of int8'; of a metric '>= 0.9', or 'float - 0.5' (points)"


class Limit(BaseModel):
    """A limit: absolute (SI units), or a share of the float (or uniform int8) network's figure, or points from it.

    Attributes:
        of: the reference; "points": the limit is so many points (of %, else units of the metric) from the float network's figure.
        bound: ">=" for a metric where higher is better; "-" or "+": points below or above float; "": an upper limit, or points worse.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    of: Literal["", "float", "int8", "points"] = ""
    bound: Literal["", ">=", "-", "+"] = ""


def _read_limit(value: Any) -> Any:
    if isinstance(value, Limit):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} given; {_ALLOWED}")
    text = str(value).strip()
    points, match = _POINTS.fullmatch(text), _BUDGET.fullmatch(text)
    number = (points[2] or points[3]) if points else match[2] if match else ""
    try:
        limit = float(number)
    except ValueError:
        limit = float("nan")
    if not 0 <= limit < float("inf") or (limit == 0 and not points):
        raise ValueError(f"{value!r} given; {_ALLOWED}")
    if points or not match:
        return Limit.model_validate({"value": limit, "of": "points", "bound": (points and points[1]) or ""})
    bound: Any = match[1] if match[1] == ">=" else ""
    if match[3] and not match[4] and not bound:
        raise ValueError(f"{value!r} given; a percentage needs 'of float' or 'of int8'")
    return Limit.model_validate({"value": limit / 100 if match[3] else limit, "of": match[4] or "", "bound": bound})


def _write_limit(limit: Limit) -> float | str:
    if limit.of == "points":
        return f"float {limit.bound} {limit.value} points" if limit.bound else f"{limit.value} points"
    text = f"{limit.value} of {limit.of}" if limit.of else str(limit.value)
    if limit.bound:
        return f"{limit.bound} {text}"
    return text if limit.of else limit.value


Budget = Annotated[Limit, BeforeValidator(_read_limit, json_schema_input_type=LimitForm), PlainSerializer(_write_limit)]
