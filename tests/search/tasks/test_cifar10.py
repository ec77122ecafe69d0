"""CIFAR-10: both official forms read, checkpoints taken, bad batches refused."""

import io
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quant_core.util.errors import InputError
from search.tasks import cifar10, load
from search.tasks.networks import build_network
from search.tasks.task import Task


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFRONT_DATA", raising=False)


def sizes(task: Task) -> dict[str, int]:
    return {split: sum(len(labels) for _, labels in getattr(task, split)) for split in ("train", "calib", "valid", "test")}


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "PER_BATCH", 20)
    monkeypatch.setattr(cifar10, "VALID", 10)


def cifar_rows(seed: int) -> tuple[NDArray[np.uint8], list[int]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 3072), dtype=np.uint8)
    return pixels, list(range(10)) * 2


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes and text as Python 2 wrote its str: BINSTRING."""

    dispatch: ClassVar[dict[type, object]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: bytes | str) -> None:
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def pickled_by_python2(content: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_cifar(folder: Path, form: str) -> None:
    folder.mkdir(parents=True)
    names = cifar10.PYTHON if form == "python" else cifar10.BINARY
    for number, name in enumerate(names):
        pixels, labels = cifar_rows(number)
        if form == "python":
            content = pickled_by_python2({b"batch_label": b"one", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * 20})
        else:
            content = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1).tobytes()
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("form", "folder"), [("python", "cifar-10-batches-py"), ("binary", "cifar10/cifar-10-batches-bin"), ("python", "cifar10")]
)
def test_cifar10_reads_both_official_forms_alike(tmp_path: Path, small_cifar: None, form: str, folder: str) -> None:
    write_cifar(tmp_path / folder, form)
    task = load("cifar10", {"path": str(tmp_path), "network": "dscnn", "epochs": 1, "calib_size": 8, "batch_size": 16})
    assert sizes(task) == {"train": 90, "calib": 8, "valid": 10, "test": 20}
    images, labels = task.test[0]  # type: ignore[index]
    pixels, expected = cifar_rows(5)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = (pixels.reshape(20, 3, 32, 32) / 255 - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(images.numpy(), scaled, atol=1e-5)
    assert labels.tolist() == expected
    np.testing.assert_allclose(
        task.valid[0][0].numpy()[:, 0], (cifar_rows(4)[0][10:, :1024].reshape(10, 32, 32) / 255 - 0.485) / 0.229, atol=1e-5
    )  # type: ignore[index]


def test_cifar10_takes_a_checkpoint_and_then_trains_nothing(tmp_path: Path, small_cifar: None) -> None:
    write_cifar(tmp_path / "cifar10", "binary")
    network = build_network("resnet20", 3, 10)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}, "best_prec1": 91.7}, tmp_path / "net.th"
    )
    task = load("cifar10", {"path": str(tmp_path), "checkpoint": str(tmp_path / "net.th"), "calib_size": 8, "batch_size": 8})
    assert all(torch.equal(a, b) for a, b in zip(task.model.state_dict().values(), network.state_dict().values(), strict=True))
    assert not (tmp_path / "cache").exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("owned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Evil()), "is no python batch of CIFAR-10: UnpicklingError: it asks for builtins.print"),
        (b"hello", "is no python batch of CIFAR-10"),
        (pickle.dumps({b"data": 1}), r"is no python batch of CIFAR-10: KeyError: b'labels'"),
        (pickle.dumps([1]), "is no python batch of CIFAR-10: TypeError"),
        (
            pickle.dumps({b"data": np.zeros((20, 3), np.uint8), b"labels": [0] * 20}),
            r"has data uint8 \(20, 3\) and labels \(20,\); a batch has",
        ),
        (
            pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [11] * 20}),
            "has labels from 11 to 11; those of CIFAR-10 are 0 to 9",
        ),
    ],
)
def test_bad_python_batches_are_refused_and_run_no_code(
    tmp_path: Path, small_cifar: None, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        cifar10.read_python(path)
    assert "owned" not in capsys.readouterr().out


def test_short_and_unbalanced_binary_batches_are_refused(tmp_path: Path, small_cifar: None) -> None:
    write_cifar(tmp_path / "cifar10", "binary")
    path = tmp_path / "cifar10" / "data_batch_2.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="holds 61459 bytes; a batch of 20 images has 61460"):
        load("cifar10", {"path": str(tmp_path)})
    path.write_bytes(bytes([1]) + whole[1:])
    with pytest.raises(InputError, match=r"is not the official CIFAR-10: images per class \[9, 11, 10"):
        load("cifar10", {"path": str(tmp_path)})
