"""Pictures are PNG of some size."""

import struct
from collections.abc import Callable

from search.records.record import SweepRecord
from search.report.png import bits_png, front_png

MakeSweep = Callable[..., SweepRecord]


def test_pictures_are_png_of_some_size(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30, objectives=("error", "weight_bytes", "latency_s"))
    for data in (front_png(sweep), bits_png(sweep)):
        width, height = struct.unpack(">II", data[16:24])
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert width > 300
        assert height > 200
