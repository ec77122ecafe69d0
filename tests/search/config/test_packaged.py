"""The experiments that ship with bitfront: by name, and equal to the files of examples/."""

from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search.config.files import EXPERIMENTS, load, packaged

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("digits", "efficientnet_lite0", "fashion_mnist", "llama10m", "minilm_sts", "stories260k")


def test_packaged_experiments_are_the_examples() -> None:
    assert packaged() == tuple(sorted(path.stem for path in EXAMPLES.glob("*.toml"))) == NAMES
    for name in packaged():
        assert (EXPERIMENTS / f"{name}.toml").read_text() == (EXAMPLES / f"{name}.toml").read_text()


def test_a_name_is_a_packaged_experiment_unless_a_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load(Path("digits"), ["search.trials=8"]).search.trials == 8
    assert load(Path("digits")) == load(EXAMPLES / "digits.toml")
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").write_text((EXAMPLES / "digits.toml").read_text().replace("trials = 80", "trials = 7"))
    assert load(Path("digits")).search.trials == 7


def test_an_unknown_name_lists_the_packaged_ones() -> None:
    with pytest.raises(
        InputError, match=r"cannot read the experiment file digit: .*ship with bitfront, by name: digits, efficientnet_lite0, "
    ):
        load(Path("digit"))
