"""The pictures of docs/pictures.md: sweeps of digits are run and recorded, then their pages are photographed in chromium.

    python -m benchmarks.pictures [--out docs/images] [--work out/pictures]

Needs Debian's chromium and chromium-driver, and Pillow, which reduces a picture to 256 colours: 150 KB at most.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pictures_pages import card_page, notebook_page
from search.records.compare import compare
from search.records.record import SweepRecord
from search.report.comparison import comparison_page
from search.report.page import sweep_page
from search.sweeps.layer_figures import layer_figures
from search.tracking import read, sweeps
from search.tracking.server import serve
from search.tracking.view import link, sweeps_link
from tests.search import browser as shots
from tests.search.records.test_palette import DEUTERANOPIA, LUMINANCE

ROOT = Path(__file__).parents[1]
SEARCHERS = ("auto", "tpe", "nsga2")
TRIALS = 60
WIDTHS = ((1600, 1000), (390, 844))
COLOURS = 256
DRAWN = "return document.querySelectorAll('.scatterlayer path.point').length > 9"
HOVERED = """const plot = document.querySelector('.plotly-graph-div');
const curve = plot.data.findIndex(trace => trace.name === 'front');
Plotly.Fx.hover(plot, [{curveNumber: curve, pointNumber: Math.floor(plot.data[curve].x.length / 2)}], ['xy']); return true"""


def record(folder: Path) -> tuple[str, list[SweepRecord]]:
    """Return a store with the sweeps, which are run where the folder has none yet, and the sweeps."""
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    for seed, searcher in enumerate(SEARCHERS):
        if not (folder / f"{searcher}.done").exists():
            changes = [f'name="digits-{searcher}"', f'search.searcher="{searcher}"', f"search.trials={TRIALS}", f"search.seed={seed}"]
            _bitfront(folder, "sweep", "digits", *changes)
            (folder / f"{searcher}.done").touch()
    return uri, [read(uri, f"digits-{searcher}") for searcher in SEARCHERS]


def _bitfront(folder: Path, *words: str) -> None:
    """Run the command line in a folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    subprocess.run([sys.executable, "-m", "search", *words], cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True)


def shoot(browser: shots.Browser, name: str, out: Path) -> None:
    """Write what the browser shows as a small PNG."""
    shots.PICTURES = out
    browser.picture(name)
    path = out / f"{name}.png"
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def pages(browser: shots.Browser, folder: Path, records: list[SweepRecord], out: Path) -> None:
    """Photograph the page of a sweep with a policy pointed at, and the page of a comparison."""
    (folder / "front.html").write_text(sweep_page(records[0], layers=layer_figures(records[0])))
    (folder / "compare.html").write_text(comparison_page(compare(records)))
    for width, height in WIDTHS:
        for dark in (False, True):
            ending = f"{width}{'-dark' if dark else ''}"
            browser.size(width, height, dark=dark)
            for name in ("front", "compare"):
                browser.load((folder / f"{name}.html").as_uri())
                browser.wait(DRAWN)
                if name == "compare":
                    parallel(browser, f"parallel-{ending}", out)
                if name == "front":
                    browser.wait(HOVERED)
                    browser.wait("return document.querySelector('.hoverlayer .hovertext') !== null")
                assert browser.script("return document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls at {width} px"
                shoot(browser, f"{name}-{ending}", out)
                if name == "front":
                    layers(browser, f"layers-{ending}", out)


def simulations(out: Path) -> None:
    """Write the page of a comparison as people without green cones see it, and in greyscale."""
    for name, matrix in (("deuteranopia", DEUTERANOPIA), ("grey", (LUMINANCE,) * 3)):
        with Image.open(out / "compare-1600.png") as picture:
            values = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255.0
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
        seen = np.clip(linear @ np.array(matrix).T, 0.0, 1.0)
        coded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        made = Image.fromarray(np.round(255.0 * coded).astype(np.uint8))
        made.quantize(COLOURS, dither=Image.Dither.NONE).save(out / f"compare-{name}.png", optimize=True)


def layers(browser: shots.Browser, name: str, out: Path) -> None:
    """Photograph the part of a sweep's page about single layers."""
    browser.script("[...document.querySelectorAll('h2')].find(head => head.textContent.startsWith('Which layers')).scrollIntoView()")
    time.sleep(0.5)
    shoot(browser, name, out)


def parallel(browser: shots.Browser, name: str, out: Path) -> None:
    """Photograph the parallel coordinates of a comparison, the figure after those of the fronts."""
    browser.script("[...document.querySelectorAll('.plotly-graph-div')].at(-1).scrollIntoView({block: 'center'})")
    time.sleep(0.5)
    shoot(browser, name, out)
    browser.script("scrollTo(0, 0)")


def others(browser: shots.Browser, folder: Path, out: Path) -> None:
    """Photograph the card of the suggested policy's export, and the tutorial as it runs in a notebook."""
    exported = folder / "card"
    if not exported.exists():
        _bitfront(folder, "export", "digits-auto", "-f", "onnx", "-f", "c-array", "--out", str(exported))
    (exported / "card.html").write_text(card_page(exported))
    if not (folder / "tutorial.html").exists():
        (folder / "tutorial.html").write_text(notebook_page(ROOT / "docs/tutorial.ipynb", folder))
    for (width, height), dark in ((size, dark) for size in WIDTHS for dark in (False, True)):
        browser.size(width, height, dark=dark)
        for name, path in (("card", exported / "card.html"), ("notebook", folder / "tutorial.html")):
            browser.load(path.as_uri())
            if name == "notebook":
                browser.wait(DRAWN)
                browser.script("document.querySelector('.plotly-graph-div').scrollIntoView({block: 'center'})")
            assert browser.script("return document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls at {width} px"
            shoot(browser, f"{name}-{width}{'-dark' if dark else ''}", out)


def views(browser: shots.Browser, uri: str, out: Path) -> None:
    """Photograph the two views of MLflow."""
    port, experiment = shots.free_port(), sweeps(uri)[0].experiment_id
    server, base = serve(uri, port), f"http://127.0.0.1:{port}"
    try:
        for (width, height), dark in ((size, dark) for size in WIDTHS for dark in (False, True)):
            browser.size(width, height, dark=dark)
            for name, address in (("sweeps", sweeps_link(experiment, base)), ("fronts", link(experiment, base))):
                browser.open(address)
                browser.script("localStorage.setItem('_mlflow_dark_mode_toggle_enabled', arguments[0])", json.dumps(dark))
                browser.open(address)
                browser.wait("return document.body.innerText.includes('matching runs')")
                if name == "fronts" and width > 1000:
                    browser.wait(DRAWN)
                time.sleep(1.5)  # the table sets the widths of its columns
                shoot(browser, f"mlflow-{name}-{width}{'-dark' if dark else ''}", out)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Run the sweeps and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--work", type=Path, default=Path("out/pictures"))
    parser.add_argument("--pages-only", action="store_true", help="not MLflow's views")
    chosen = parser.parse_args()
    folder, out = chosen.work.resolve(), chosen.out.resolve()
    uri, records = record(folder)
    with shots.chromium(folder / "profile") as browser:
        pages(browser, folder, records, out)
        simulations(out)
        others(browser, folder, out)
        if not chosen.pages_only:
            views(browser, uri, out)


if __name__ == "__main__":
    main()
