"""Pages load nothing from anywhere, and are escaped."""

import re
from collections.abc import Callable
from dataclasses import replace

from search.records.compare import compare
from search.records.record import SweepRecord
from search.report.comparison import comparison_page
from search.report.page import page, sweep_page, table
from search.report.png import bits_png, front_png
from search.report.publish import note

MakeSweep = Callable[..., SweepRecord]


EXTERNAL = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*["']?https?:""", re.IGNORECASE)


def test_an_empty_front_still_gives_a_page(make_sweep: MakeSweep) -> None:
    empty = make_sweep(trials=4, limits={"weight_bytes": 1.0})
    assert "0 policies on the front of 4 trials" in sweep_page(empty)
    assert front_png(empty)[:4] == bits_png(empty)[:4] == b"\x89PNG"
    assert "0 policies on the front" in note(replace(empty, trials=()))
    assert sweep_page(replace(empty, trials=()))


def test_pages_work_offline(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("a<b", trials=20)
    for text in (sweep_page(sweep), comparison_page(compare([sweep, make_sweep("other", seed=1)]))):
        assert not EXTERNAL.search(text)
        assert text.count("Plotly.newPlot(") >= 1
        assert 4_000_000 < len(text) < 6_000_000  # plotly's script once
    assert "a&lt;b" in sweep_page(sweep)
    assert page("t", ["<p>x</p>"]).endswith("<h2>t</h2><p>x</p></body></html>")


def test_tables_are_escaped_and_marked() -> None:
    text = table([{"a": "<i>", "b": 0.123456789, "k": True}, {"a": None, "b": 2, "k": False}], "k")
    assert "<tr class=mark><td>&lt;i&gt;</td><td>0.123457</td>" in text
    assert "<tr><td></td><td>2</td>" in text
