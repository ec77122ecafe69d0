"""Fashion-MNIST: IDX files read and verified, splits carved, networks trained."""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from quant_core.util.errors import InputError
from search.tasks import fashion_mnist, load
from search.tasks.task import Task

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFRONT_DATA", raising=False)


def sizes(task: Task) -> dict[str, int]:
    return {split: sum(len(labels) for _, labels in getattr(task, split)) for split in ("train", "calib", "valid", "test")}


def idx(array: NDArray[np.uint8]) -> bytes:
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes(), mtime=0)


@pytest.fixture
def small_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "fashion_mnist"
    folder.mkdir(parents=True)
    table = {}
    for name, (_, shape) in fashion_mnist.FILES.items():
        small = ({60_000: 60, 10_000: 20}[shape[0]], *shape[1:])
        content = idx(RNG.integers(0, 256 if len(shape) > 1 else 10, small, dtype=np.uint8))
        (folder / name).write_bytes(content)
        table[name] = (hashlib.md5(content).hexdigest(), small)
    monkeypatch.setattr(fashion_mnist, "FILES", table)
    monkeypatch.setattr(fashion_mnist, "VALID", 12)
    return folder


def test_fashion_mnist_carves_its_splits_and_trains_the_named_network(small_fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_DATA", str(small_fashion.parent))
    task = load("fashion_mnist", {"network": "dscnn", "epochs": 1, "calib_size": 7, "test_size": 9, "batch_size": 5, "train_size": 40})
    assert sizes(task) == {"train": 40, "calib": 7, "valid": 12, "test": 9}
    inputs, labels = task.valid[0]  # type: ignore[index]
    raw = gzip.decompress((small_fashion / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(60, 1, 28, 28)[48:] / 255
    np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-6)
    assert labels.tolist() == list(gzip.decompress((small_fashion / "train-labels-idx1-ubyte.gz").read_bytes())[8:][48:])
    assert task.model(inputs).shape == (12, 10)
    assert [x.shape[0] for x, _ in task.train] == [5] * 8
    again = [labels.tolist() for _, labels in task.train]
    assert [labels.tolist() for _, labels in task.train] == again, "the splits can be read again"


def test_files_may_lie_in_the_given_folder_itself(small_fashion: Path) -> None:
    assert sizes(load("fashion_mnist", {"path": str(small_fashion), "epochs": 1, "calib_size": 8, "batch_size": 8}))["train"] == 48


def test_unknown_network_is_refused_with_the_known_ones(small_fashion: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown network 'resnet9'; known: dscnn, mobilenetv2, resnet20, resnet8\. Did you mean 'resnet8'"
    ):
        load("fashion_mnist", {"path": str(small_fashion), "network": "resnet9"})


def own_network(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 784, classes))


def test_own_network_is_trained(small_fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_networks", sys.modules[__name__])
    options = {"path": str(small_fashion), "network": "my_networks:own_network", "epochs": 1, "calib_size": 8, "batch_size": 8}
    assert isinstance(load("fashion_mnist", options).model[1], nn.Linear)  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "damaged or not the official file: MD5"),
        (lambda content: b"", "damaged or not the official file: MD5"),
    ],
)
def test_damaged_fashion_mnist_is_refused(small_fashion: Path, change: object, message: str) -> None:
    path = small_fashion / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        load("fashion_mnist", {"path": str(small_fashion)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "is no whole gzip file"),
        (idx(np.zeros(5, np.uint8))[:-4], "is no whole gzip file"),
        (idx(np.zeros(5, np.uint8)), r"expected uint8 of shape \(6,\) in IDX form"),
        (
            gzip.compress(b"\0\0\x08\x01\0\0\0\x06" + bytes(5), mtime=0),
            r"holds 13 bytes that begin 0000080100000006.*expected uint8 of shape \(6,\)",
        ),
        (gzip.compress(b"\0\0\x09\x01\0\0\0\x06" + bytes(6), mtime=0), "that begin 0000090100000006"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        fashion_mnist.read_idx(path, hashlib.md5(content).hexdigest(), (6,))


def test_real_fashion_mnist_is_read_whole(shared_data: Path) -> None:
    labels = fashion_mnist.read_idx(
        shared_data / "fashion_mnist" / "train-labels-idx1-ubyte.gz", *fashion_mnist.FILES["train-labels-idx1-ubyte.gz"]
    )
    assert np.bincount(labels).tolist() == [6000] * 10
    images = fashion_mnist.read_idx(
        shared_data / "fashion_mnist" / "t10k-images-idx3-ubyte.gz", *fashion_mnist.FILES["t10k-images-idx3-ubyte.gz"]
    )
    assert images.shape == (10_000, 28, 28)
    assert abs(images.mean() / 255 - 0.2868) < 1e-3, "the mean that is published for the test images"
