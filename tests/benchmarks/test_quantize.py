"""The benchmark of number formats runs and reports; the error table shows what the literature claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import error_table
from benchmarks.quantize import FORMATS, best
from benchmarks.quantize_clipping import mse_by_channel
from quant_core.codecs.quantize import fake_quantize_affine
from quant_core.util.errors import InputError

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_command_prints_every_format_as_json() -> None:
    command = [sys.executable, "-m", "benchmarks.quantize", "--size-mib", "1", "--threads", "1", "--no-peers", "--json"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    names = {each["name"] for each in found["formats"]}
    assert {f"fake_quantize {text}" for text in FORMATS} <= names
    assert all(each["wall_gb_s"] > 0 and each["cpu_gb_s"] > 0 for each in found["formats"])
    assert [each["name"].split(",")[0] for each in found["clipping"]] == ["octav", "kl", "mse"]


@pytest.mark.slow
def test_a_given_scale_is_several_times_as_fast_as_torch() -> None:
    x = torch.randn(1024, 4096)
    out, scales, zeros = torch.zeros_like(x), torch.rand(1024) + 0.1, torch.zeros(1024, dtype=torch.int32)
    ours = best(lambda: fake_quantize_affine(x, scales, zeros, -8, 7, out=out))[1]
    theirs = best(lambda: torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, -8, 7))[1]
    assert theirs > 4 * ours


def test_the_reference_search_finds_a_scale_below_the_largest_value() -> None:
    x = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    for row, scale in zip(x, mse_by_channel(x), strict=True):
        assert 0.5 < scale * 7 / float(row.abs().max()) < 1.0


def test_the_claims_of_the_literature_are_visible() -> None:
    for name, tensors in error_table.distributions().items():
        part = [tensors[0][:64]]

        def decibels(text: str, part: list[torch.Tensor] = part) -> float:
            return error_table.decibels(part, text)

        assert decibels("int4:channel") > decibels("int4:tensor"), name
        assert decibels("int4:group128") > decibels("int4:channel"), name
        assert decibels("int4:vector16") > decibels("int4:group128:mse"), name
        assert decibels("nvfp4") > decibels("int4:channel:mse"), name
        assert decibels("int4:channel:mse") > decibels("int4:channel"), name
        assert decibels("int4:channel:octav") > decibels("int4:channel"), name


def test_bits_count_every_scale() -> None:
    assert error_table.bits_per_element([torch.zeros(4, 256), torch.zeros(2, 100)], "int4:group128") == 4 + 16 * (4 * 2 + 2) / 1224


def test_a_page_without_markers_or_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    monkeypatch.setattr(sys, "argv", ["error_table", "--page", str(page)])
    with pytest.raises(InputError, match="lacks the lines"):
        error_table.main()
    with pytest.raises(InputError, match="is no file"):
        error_table.trained(tmp_path / "absent.th")


def test_the_table_goes_between_the_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, weights = tmp_path / "page.md", tmp_path / "state.pt"
    page.write_text(f"before\n{error_table.START}\nold\n{error_table.END}\nafter\n")
    torch.save({"conv.weight": torch.randn(4, 3, 3, 3), "bias": torch.randn(4)}, weights)
    monkeypatch.setattr(error_table, "specs", lambda: ["int8:channel"])
    monkeypatch.setattr(error_table, "distributions", lambda: {"Gaussian": [torch.randn(4, 32)]})
    monkeypatch.setattr(sys, "argv", ["error_table", "--page", str(page), "--weights", str(weights)])
    error_table.main()
    text = page.read_text()
    assert text.startswith(f"before\n{error_table.START}\n\n| spec |")
    assert text.endswith(f"{error_table.END}\nafter\n")
    assert "| `int8:channel` | 9.000 |" in text
    assert "old" not in text
