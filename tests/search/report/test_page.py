"""Pages load nothing from anywhere, and are escaped."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from search.records.compare import compare
from search.records.record import SweepRecord
from search.report.comparison import comparison_page
from search.report.page import page, sweep_page, table
from search.report.png import bits_png, front_png
from search.report.publish import note
from tests.search.browser import Browser

MakeSweep = Callable[..., SweepRecord]
FIRST = "document.querySelector('.plotly-graph-div')"


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
    assert page("t", ["<p>x</p>"]).count("<main><h1>t</h1><p>x</p></main>") == 1


def test_tables_are_escaped_and_marked() -> None:
    assert "<button data-policy='3'>x</button>" in table([{"a": "x"}], buttons={"x": "3"})
    text = table([{"a": "<i>", "b": 0.123456789, "k": True}, {"a": None, "b": 2, "k": False}], "k")
    assert "<tr class=mark><td>&lt;i&gt;</td><td>0.123457</td>" in text
    assert "<tr><td></td><td>2</td>" in text


@pytest.fixture
def opened(browser: Browser, make_sweep: MakeSweep, tmp_path: Path) -> Iterator[Browser]:
    """Open the page of a sweep of two costs on a telephone."""
    sweep = make_sweep(trials=40, layers=20, objectives=("error", "weight_bytes", "latency_s"), limits={"weight_bytes": 9000.0})
    (tmp_path / "front.html").write_text(sweep_page(sweep))
    browser.size(390, 844)
    browser.load((tmp_path / "front.html").as_uri())
    browser.wait("return document.querySelectorAll('.scatterlayer path.point').length > 40")
    yield browser
    browser.size(1600, 1000)


@pytest.mark.browser
def test_a_page_fits_a_telephone_and_the_dark(opened: Browser) -> None:
    opened.picture("front-390")
    assert opened.script("return document.documentElement.scrollWidth <= innerWidth")
    ink = f"return {FIRST}.querySelector('.xtick text').style.fill"
    light = opened.wait(ink)
    opened.size(390, 844, dark=True)
    opened.wait(f"{ink} !== {light!r}")
    assert opened.script("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
    opened.picture("front-390-dark")
    for text in ("float 98.00 %", "budget 8.789 KiB"):
        assert text in opened.text()


@pytest.mark.browser
def test_a_click_and_a_key_open_the_panel_of_a_policy(opened: Browser) -> None:
    opened.script("document.querySelector('button[data-policy]').focus(); document.activeElement.click()")
    assert opened.script("return document.activeElement.id") == "panel-title"
    text = opened.script("return document.getElementById('panel').innerText")
    for words in ("accuracy, validation", "bitfront export made-up --pick", "bitfront apply", "body.19.conv", "int8:tensor:ema"):
        assert words in text
    opened.picture("panel-390")
    opened.script("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert opened.script("return document.getElementById('panel').hidden")
    assert opened.script("return document.activeElement.dataset.policy !== undefined"), "the focus is not where it was"
    front = f"[...{FIRST}.data].find(trace => trace.name === 'front')"
    assert "points to float" in opened.script(f"return {front}.text[0]")
    opened.script(f"{FIRST}.emit('plotly_click', {{points: [{{customdata: {front}.customdata[0]}}]}})")
    assert opened.script(f"return document.getElementById('panel-title').innerText.includes('trial ' + {front}.customdata[0] + ':')")
