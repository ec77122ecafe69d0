"""The image tasks: files found and verified, IDX and npz and CIFAR batches read, splits carved, batches scaled."""

import gzip
import hashlib
import io
import pickle
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from quant_core.util.errors import InputError
from search.tasks import cifar10, fashion_mnist, load, pneumoniamnist
from search.tasks.files import Source, locate, verified
from search.tasks.images import Batches, Images, Scale
from search.tasks.networks import build_network
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


@pytest.mark.parametrize("name", ["fashion_mnist", "pneumoniamnist", "cifar10", "mlperf_tiny", "resnet20_cifar10", "stories260k"])
def test_absent_data_is_an_error_that_says_what_to_put_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"no path to the data of {name}\. Put .* into a folder {name}, .* in BITFRONT_DATA\. .*never downloads"
    ):
        load(name, {})
    with pytest.raises(InputError, match=rf"data of {name} not found: none of {tmp_path}, {tmp_path / name}.* holds all of it\. Put"):
        load(name, {"path": str(tmp_path)})


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


def test_real_pneumoniamnist_loses_the_validation_images_from_its_training_split(shared_data: Path) -> None:
    task = load("pneumoniamnist", {"path": str(shared_data), "network": "dscnn", "epochs": 1})
    assert sizes(task) == {"train": 4698, "calib": 512, "valid": 524, "test": 624}
    train = {image.numpy().tobytes() for images, _ in task.train for image in images}
    valid = {image.numpy().tobytes() for images, _ in task.valid for image in images}
    assert not train & valid


def npz(**arrays: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def small_pneumonia(labels: dict[str, list[int]]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for part, given in labels.items():
        arrays[f"{part}_images"] = RNG.integers(0, 256, (len(given), 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.array(given, dtype=np.uint8)[:, None]
    return arrays


def test_npz_in_the_official_form_is_read_and_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small_pneumonia({"train": [0, 1, 1], "val": [1, 0], "test": [0, 1]})
    path = tmp_path / "pneumoniamnist.npz"

    def write(content: bytes, counts: dict[str, tuple[int, int]]) -> None:
        path.write_bytes(content)
        monkeypatch.setattr(pneumoniamnist, "MD5", {path.name: hashlib.md5(content).hexdigest()})
        monkeypatch.setattr(pneumoniamnist, "COUNTS", counts)

    counts = {"train": (1, 2), "val": (1, 1), "test": (1, 1)}
    write(npz(**arrays), counts)
    splits = pneumoniamnist.read(path)
    assert splits["train"].labels.tolist() == [0, 1, 1]
    assert np.array_equal(splits["val"].pixels.numpy()[:, 0], arrays["val_images"])
    write(npz(**arrays), {**counts, "test": (2, 0)})
    with pytest.raises(
        InputError, match=r"split 'test' has uint8 \(2, 28, 28\) and labels \[1, 1\]; expected uint8 \(2, 28, 28\) and labels \[2, 0\]"
    ):
        pneumoniamnist.read(path)
    write(npz(train_images=arrays["train_images"]), counts)
    with pytest.raises(InputError, match=r"is not PneumoniaMNIST: .*train_labels"):
        pneumoniamnist.read(path)
    write(b"PK nonsense", counts)
    with pytest.raises(InputError, match="is not PneumoniaMNIST"):
        pneumoniamnist.read(path)
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="not the official file: MD5"):
        pneumoniamnist.read(path)


def test_images_that_stand_elsewhere_are_left_out() -> None:
    images = Images(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.arange(4))
    others = Images(torch.tensor([[[[2]]], [[[9]]]], dtype=torch.uint8), torch.arange(2))
    assert pneumoniamnist.without(images, others).labels.tolist() == [0, 1, 3]


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

    def save_string(self, given: bytes | str) -> None:
        raw = given if isinstance(given, bytes) else given.encode("latin1")
        self.write(b"T" + len(raw).to_bytes(4, "little") + raw)
        self.memoize(given)

    dispatch[bytes] = dispatch[str] = save_string


def pickled_by_python2(given: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(given)
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


def test_batches_scale_lazily_and_end_with_the_rest() -> None:
    images = Images(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5))
    batches = Batches(images, 2, Scale(2.0, (1.0,), (0.5,)))
    assert len(batches) == 3
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4]]
    assert torch.cat([inputs for inputs, _ in batches]).flatten().tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
