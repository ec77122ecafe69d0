"""Files of data sets: located, verified, named where they are absent."""

from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search.tasks import load
from search.tasks.files import Source, locate, verified


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFRONT_DATA", raising=False)


@pytest.mark.parametrize("name", ["fashion_mnist", "pneumoniamnist", "cifar10", "mlperf_tiny", "resnet20_cifar10", "stories260k"])
def test_absent_data_is_an_error_that_says_what_to_put_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"no path to the data of {name}\. Put .* into a folder {name}, .* in BITFRONT_DATA\. .*never downloads"
    ):
        load(name, {})
    with pytest.raises(InputError, match=rf"data of {name} not found: none of {tmp_path}, {tmp_path / name}.* holds all of it\. Put"):
        load(name, {"path": str(tmp_path)})


def test_locate_prefers_what_is_whole_and_knows_every_choice(tmp_path: Path) -> None:
    source = Source("set", (("a", "b"), ("c",)), "Ask.", ("other",))
    (tmp_path / "a").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c").write_text("")
    assert locate(source, str(tmp_path)) == (tmp_path / "other", ("c",))
    (tmp_path / "other" / "c").unlink()
    with pytest.raises(InputError, match=r"none of .* holds all of it\. Put a, b or c into a folder set"):
        locate(source, str(tmp_path))


def test_verified_gives_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert verified(tmp_path / "f", "900150983cd24fb0d6963f7d28e17f72") == b"abc"
