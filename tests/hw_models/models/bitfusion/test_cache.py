import json
from pathlib import Path

import pytest

from hw_models.models.bitfusion.cache import cache_path, schedules
from hw_models.models.bitfusion.machine import Array, LayerWorkload

pytestmark = pytest.mark.usefixtures("own_cache")

ARRAY = Array(4, 4, 24, 512, 256, 512, 10.0, (0.06, 0.11), (0.02, 0.03), (0.03, 0.07), 15.0)


def test_schedules_are_read_back_from_the_cache_and_a_damaged_file_is_replaced(own_cache: Path) -> None:
    work = LayerWorkload(1, 4, 4, 8, 8, (3, 3))
    first = schedules(ARRAY, work, 8)
    path = cache_path(ARRAY, work, 8)
    assert path.is_relative_to(own_cache)
    planted = [[1] * 10 for _ in first]
    path.write_text(json.dumps(planted))
    schedules.cache_clear()
    assert set(schedules(ARRAY, work, 8).values()) == {(1,) * 10}
    path.write_text("[[1, 2")
    schedules.cache_clear()
    assert schedules(ARRAY, work, 8) == first
    assert len(json.loads(path.read_text())) == 64


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("BITFRONT_CACHE", str(blocked))
    assert len(schedules(ARRAY, LayerWorkload(1, 2, 2, 8, 8), 8)) == 64
