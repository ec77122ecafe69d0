"""Pages load nothing from anywhere, and are escaped."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from search.records.compare import compare
from search.records.front import front_members
from search.records.palette import color, symbol
from search.records.record import SweepRecord
from search.report.comparison import comparison_page
from search.report.page import page, sweep_page, table
from search.report.png import bits_png, front_png
from search.report.publish import note
from search.tasks.metrics.info import MetricInfo
from tests.search.browser import Browser

MakeSweep = Callable[..., SweepRecord]
FIRST = "document.querySelector('.plotly-graph-div')"
DRAWN = "return document.querySelectorAll('.scatterlayer path.point').length > 40"


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


@pytest.fixture(scope="module")
def written(make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the page of a sweep of two costs, and that of a comparison."""
    folder, three = tmp_path_factory.mktemp("pages"), ("error", "weight_bytes", "latency_s")
    sweep = make_sweep(trials=40, layers=20, objectives=three, limits={"weight_bytes": 9000.0})
    (folder / "front.html").write_text(sweep_page(replace(sweep, run_id="0" * 32)))
    sweeps = [make_sweep(name, trials=40, seed=seed, layers=20, objectives=three) for seed, name in enumerate(("one", "two", "three"))]
    (folder / "compare.html").write_text(comparison_page(compare(sweeps)))
    return folder


@pytest.fixture
def opened(browser: Browser, written: Path) -> Iterator[Browser]:
    """Open the page of the sweep on a telephone."""
    browser.size(390, 844)
    browser.load((written / "front.html").as_uri())
    browser.wait(DRAWN)
    yield browser
    browser.size(1600, 1000)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1600, 1280, 390])
def test_pages_fit_the_screen_and_a_point_says_what_it_is(opened: Browser, written: Path, width: int) -> None:
    for name in ("front", "compare"):
        opened.size(width, 900)
        opened.load((written / f"{name}.html").as_uri())
        opened.wait(DRAWN)
        assert opened.script("return document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls at {width} px"
        curve = f"{FIRST}.data.findIndex(trace => trace.mode === 'markers' && trace.x.length > 2)"
        opened.script(f"Plotly.Fx.hover({FIRST}, [{{curveNumber: {curve}, pointNumber: 1}}], ['xy'])")
        said = opened.wait("const text = document.querySelector('.hoverlayer .hovertext'); return text && text.textContent")
        for words in ("accuracy, validation: ", "points to float)", "size: ", "latency: ", "x smaller than float)", "bits per layer: "):
            assert words in said, f"{words} in {said}"
        opened.picture(f"{name}-{width}")


@pytest.mark.browser
def test_a_sweep_keeps_its_colour_and_symbol_in_every_figure_of_a_comparison(opened: Browser, written: Path) -> None:
    opened.load((written / "compare.html").as_uri())
    opened.wait(DRAWN)
    looks = opened.script(
        "return [...document.querySelectorAll('.plotly-graph-div')].flatMap(plot => plot.data.filter(t => t.mode === 'markers'))"
        ".filter(t => ['one', 'two', 'three'].includes(t.name)).map(t => [t.name, t.marker.color, t.marker.symbol])"
    )
    assert len(looks) == 9, "three pairs of objectives, three sweeps"
    wanted = {name: [name, color(i), symbol(i)] for i, name in enumerate(("one", "two", "three"))}
    assert all(look == wanted[look[0]] for look in looks)
    text = opened.text()
    assert re.search(r"dominates|better|equal", text), "the verdict"


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
    assert opened.script("return document.querySelector('#panel a').href") == f"http://127.0.0.1:5000/#/runs/{'0' * 32}"
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


def test_a_page_of_members_of_which_some_are_not_judged_on_test(make_sweep: MakeSweep) -> None:
    """A sweep whose time was over, of a task with metrics of its own: the report failed, and the sweep's end with it."""
    sweep = make_sweep(trials=30)
    first, *others = sorted(front_members(sweep), key=lambda trial: trial.result.cost["weight_bytes"])
    judged = replace(first, test={"accuracy": 0.9, "perplexity": 9.0})
    trials = tuple(judged if trial.number == first.number else replace(trial, test={}) for trial in sweep.trials)
    infos = (MetricInfo("perplexity", False, "", 0.0), MetricInfo("accuracy", True, "%", 1.0, 1.0))
    page = sweep_page(replace(sweep, trials=trials, metrics=infos))
    assert others
    assert "90.00" in page
