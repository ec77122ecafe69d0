"""The lines of the README run in a notebook: tables as HTML, figures as plotly's own type, the interpreter as before."""

from pathlib import Path

import pytest

CELLS = (
    """
import os, signal, torch, warnings
before = (torch.get_num_threads(), dict(os.environ), signal.getsignal(signal.SIGINT), torch.get_rng_state().tolist())
import bitfront
sweep = bitfront.sweep("digits", weight=["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"], activation="int8:tensor:mse",
                       device="vu9p-bitserial", objectives=("error", "weight_bytes"), budget={"weight_bytes": "0.25 of float"}, trials=8)
assert before == (torch.get_num_threads(), dict(os.environ), signal.getsignal(signal.SIGINT), torch.get_rng_state().tolist())
sweep
""",
    "sweep.front()",
    "sweep.plot()",
    "best = sweep.best(max_drop=20)\nbest",
    "model = sweep.model(best)\nexported = sweep.export(best, 'out', formats=['onnx'])\nbitfront.load(sweep.name)",
)


@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(in_folder / name.lower()))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(in_folder)}}).execute()
    shown = [{kind: text for output in cell["outputs"] for kind, text in output.get("data", {}).items()} for cell in notebook.cells]
    for cell in (0, 1, 3, 4):
        assert "<table" in shown[cell]["text/html"]  # the last output of a cell, after the lines of progress
    assert shown[2]["application/vnd.plotly.v1+json"]["data"]
    assert (in_folder / "out/model.onnx").is_file()
