"""The model card says how far off a latency is."""

from types import SimpleNamespace
from typing import cast

import pytest

from search.exporters import Bundle
from search.exporters.card import _cost


def bundle(device: str) -> Bundle:
    result = SimpleNamespace(cost={"latency_s": 0.00125, "weight_bytes": 4096.0})
    parts = SimpleNamespace(experiment=SimpleNamespace(device=SimpleNamespace(name=device)), trial=SimpleNamespace(result=result))
    return cast(Bundle, parts)


@pytest.mark.parametrize(
    ("device", "beside"), [("stm32h743-cmsis-nn", " (latency is off by 1.49 % on average, 4.1 % at most)"), ("mpic", "")]
)
def test_the_error_stands_beside_the_latency(device: str, beside: str) -> None:
    lines = _cost(bundle(device)).splitlines()
    assert f"| latency | 1.25 ms{beside} |" in lines
    assert "| weight | 4 KiB |" in lines
