"""Ray's start on a machine that other work keeps busy. Ray itself is stood in for."""

from types import SimpleNamespace
from typing import Any

import pytest

from quant_core.util.errors import InputError
from search.sweeps.ray.cluster import STARTS, _initialize

SLOW = Exception("The current node timed out during startup. This could happen because some of the raylet failed to startup.")


def ray_that_raises(*errors: Exception) -> tuple[Any, list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []

    def init(**arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]

    return SimpleNamespace(init=init, exceptions=SimpleNamespace(RayError=LookupError)), calls


def test_a_start_that_takes_longer_than_ray_waits_is_tried_again() -> None:
    ray, calls = ray_that_raises(SLOW, SLOW)
    said: list[str] = []
    _initialize(ray, "", {"num_cpus": 2}, lambda text, *_: said.append(text))
    assert [call["num_cpus"] for call in calls] == [2, 2, 2]
    assert ["trying again" in text for text in said] == [True, True]


def test_a_machine_that_never_has_time_is_one_sentence() -> None:
    ray, calls = ray_that_raises(*[SLOW] * 9)
    with pytest.raises(InputError, match="cannot connect to Ray at 'this machine': The current node timed out"):
        _initialize(ray, "", {}, lambda *_: None)
    assert len(calls) == STARTS


@pytest.mark.parametrize(
    ("error", "seen"),
    [(ConnectionError("refused"), InputError), (LookupError("ray's"), InputError), (ZeroDivisionError("a"), ZeroDivisionError)],
)
def test_other_errors_are_not_tried_again(error: Exception, seen: type[Exception]) -> None:
    ray, calls = ray_that_raises(error)
    with pytest.raises(seen):
        _initialize(ray, "10.0.0.1:6379", {}, lambda *_: None)
    assert len(calls) == 1
