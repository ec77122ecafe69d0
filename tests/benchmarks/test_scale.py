"""The table of real sizes: rows are kept one by one, and the page is made from all that are kept."""

import json
from pathlib import Path

import pytest

from benchmarks import scale


def test_rows_of_several_runs_make_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = tmp_path / "results", tmp_path / "page.md"
    figures = {"layers-25": {"forward_s": 0.5, "proposal_s": 0.02}, "layers-100": {"forward_s": 0.5, "proposal_s": 0.004}}

    def measured(name: str, _data: Path) -> scale.Figures:
        if name not in figures:
            raise RuntimeError("no data")
        return figures[name]

    monkeypatch.setattr(scale, "measured", measured)
    for name in ("layers-100", "layers-25", "efficientnet"):
        scale.main(["--only", name, "--results", str(results)])
    assert "not measured: no data" in capsys.readouterr().out
    assert json.loads((results / "layers-25.json").read_text()) == figures["layers-25"]
    scale.main(["--only", "--results", str(results), "--write", str(page)])
    rows = [line for line in page.read_text().splitlines() if "tiny layers" in line]
    assert [row.split("|")[1].strip() for row in rows] == ["25 tiny layers", "100 tiny layers"]
    assert [row.split("|")[5].strip() for row in rows] == ["no", "yes"]
    assert "EfficientNet" not in page.read_text()
