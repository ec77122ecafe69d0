"""Limits of costs and of metrics, and their text forms."""

import pytest
from pydantic import TypeAdapter, ValidationError

from search.config.limits import Budget, Limit

ADAPTER: TypeAdapter[Limit] = TypeAdapter(Budget)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (1200, Limit(value=1200)),
        ("<= 1.5e3", Limit(value=1500)),
        ("0.25 of float", Limit(value=0.25, of="float")),
        ("60% of int8", Limit(value=0.6, of="int8")),
        (">= 0.9", Limit(value=0.9, bound=">=")),
        (">= 97.5 %", Limit(value=0.975, bound=">=")),
        (">= 0.99 of float", Limit(value=0.99, of="float", bound=">=")),
        ("0.5 points", Limit(value=0.5, of="points")),
        (">= float - 0.5", Limit(value=0.5, of="points", bound="-")),
        ("float - 0.5 points", Limit(value=0.5, of="points", bound="-")),
        ("<= float + 0.2", Limit(value=0.2, of="points", bound="+")),
        ("float - 0", Limit(value=0.0, of="points", bound="-")),
    ],
)
def test_a_limit_is_read_and_written_back(text: object, limit: Limit) -> None:
    assert ADAPTER.validate_python(text) == limit
    assert ADAPTER.validate_python(ADAPTER.dump_python(limit)) == limit


@pytest.mark.parametrize("text", ["small", "0", -1, True, "nan", "float", "float * 2", "97 %", "points", "1..2 of float"])
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match=r"given; (write a positive number in SI units|a percentage needs 'of float' or 'of int8')"):
        ADAPTER.validate_python(text)
