"""Parts that cannot be copied are named."""

import copy
import threading

import pytest
from torch import nn

from quant_core.util.parts import refused_part


@pytest.mark.parametrize("where", ["", "1.", "1.0."])
def test_the_deepest_part_is_named(where: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    holder = model.get_submodule(where.rstrip("."))
    lock = holder.guard = threading.Lock()  # type: ignore[assignment]
    assert refused_part(model, copy.deepcopy, "model") == (f"model.{where}guard", lock)


def test_an_object_that_refers_to_itself_ends() -> None:
    holder: dict[str, object] = {"lock": threading.Lock()}
    holder["self"] = holder
    assert refused_part(holder, copy.deepcopy)[0] == "lock"
