import json
from pathlib import Path

import pytest

from hw_models.models.bitfusion.cache import _checksum, cache_path, schedules
from hw_models.models.bitfusion.machine import Array, LayerWorkload

pytestmark = pytest.mark.usefixtures("own_cache")

ARRAY = Array(4, 4, 24, 512, 256, 512, 10.0, (0.06, 0.11), (0.02, 0.03), (0.03, 0.07), 15.0)


def test_schedules_are_read_back_from_the_cache_and_a_damaged_file_is_replaced(own_cache: Path) -> None:
    work = LayerWorkload(1, 4, 4, 8, 8, (3, 3))
    first = schedules(ARRAY, work, 8)
    path = cache_path(ARRAY, work, 8)
    assert path.is_relative_to(own_cache)
    written = json.loads(path.read_text())
    planted = [[1] * 10 for _ in first]
    path.write_text(json.dumps({"rows": planted, "sha256": _checksum(planted)}))
    schedules.cache_clear()
    assert set(schedules(ARRAY, work, 8).values()) == {(1,) * 10}, "it is read"
    other = [[written["rows"][0][0] + 1, *written["rows"][0][1:]], *written["rows"][1:]]
    for damage in ("[[1, 2", "", "null", "[" * 100_000, '{"rows": [[1e400]]}', json.dumps(written | {"rows": other}), json.dumps(planted)):
        path.write_text(damage)
        schedules.cache_clear()
        assert schedules(ARRAY, work, 8) == first
        assert json.loads(path.read_text()) == written


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("BITFRONT_CACHE", str(blocked))
    assert len(schedules(ARRAY, LayerWorkload(1, 2, 2, 8, 8), 8)) == 64
