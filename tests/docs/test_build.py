"""`make docs`: the documentation builds without a warning and without another server; the tutorial notebook runs."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = ("http://www.w3.org/", "https://mlflow.example", "https://keepachangelog.com")
"""Beginnings of addresses that pages may contain: names of XML, and examples."""


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("mkdocs", "material", "mkdocstrings"))), reason="needs the extra: pip install -e '.[docs]'")
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert "Search the quantization policies of a network" in (tmp_path / "api.html").read_text()
    addresses = {
        address
        for page in tmp_path.rglob("*.html")
        for address in re.findall(r"https?://[^\s\"'<>)]+", page.read_text())
        if not address.startswith(PROMISED)
    }
    assert not addresses


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra: pip install -e '.[dev]'")
    pytest.importorskip("ipykernel", reason="needs the extra: pip install -e '.[dev]'")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "store the notebook without outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("application/vnd.plotly.v1+json" in data for data in shown)
    assert sum("text/html" in data for data in shown) >= 4
    assert not (tmp_path / "mlflow.db").exists()
