"""The stories260K language model: its weights, its formula, its score."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.trace import trace
from quant_core.util.errors import InputError
from search.evaluation.measure import measure
from search.tasks import load
from search.tasks.stories260k import halves, read_model, token_loss, token_top1
from search.tasks.task import Task
from search.tasks.tokenizer import BOS, read_tokenizer


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "stories260k"


@pytest.fixture(scope="module")
def task(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFRONT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load("stories260k", {"path": str(folder), "length": 128, "train_size": 2, "calib_size": 2, "valid_size": 16, "test_size": 4})


def judged(task: Task) -> tuple[float, float]:
    """Return accuracy and loss on validation, as a sweep measures them."""
    metrics = measure(task.model, task.valid, task)
    return metrics["accuracy"], metrics["loss"]


def test_targets_are_the_tokens_that_come_next(task: Task) -> None:
    (tokens, targets), *_ = task.valid
    assert tokens.shape == targets.shape == (16, 128)
    assert tokens[:, 0].tolist() == [BOS] * 16
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    with torch.no_grad():
        assert task.model(tokens).shape == (16, 128, 512)


def test_score_and_loss_are_per_token() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]])
    targets = torch.tensor([[0, 0, 0]])
    assert token_top1(logits, targets).tolist() == [[1.0, 0.0, 1.0]]
    expected = sum(np.log1p(np.exp(-margin)) for margin in (2.0, -1.0, 3.0)) / 3
    assert float(token_loss(logits, targets)) == pytest.approx(expected)


def rounded(weight: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    step = weight.abs().amax(dim=1, keepdim=True) / top
    return (weight / step).round().clamp(-top, top) * step


def test_loss_falls_off_with_the_bits_as_measured_before(task: Task) -> None:
    """Rounded per row, data/README.md measured on 1,452 tokens: float 1.210, 8 bit +0.000, 4 bit +0.165, 3 bit +1.6, 2 bit +7.8."""
    state = {name: value.clone() for name, value in task.model.state_dict().items()}
    score, loss = judged(task)
    assert 1.0 < loss < 1.5
    assert 0.55 < score < 0.75
    rise = {}
    for bits in (8, 4, 3, 2):
        task.model.load_state_dict(state)
        for layer in task.model.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                layer.weight.data = rounded(layer.weight.data, bits)
        rise[bits] = judged(task)[1] - loss
    task.model.load_state_dict(state)
    assert abs(rise[8]) < 0.01
    assert 0.05 < rise[4] < 0.5
    assert 0.8 < rise[3] < 4.0
    assert rise[2] > 4.0


def test_embedding_and_head_are_one_tied_weight(task: Task) -> None:
    traced = {layer.name: layer for layer in trace(task.model, task.valid[0][0])}  # type: ignore[index]
    assert len(traced) == 1 + 5 * 7 + 1
    assert traced["model.lm_head"].tied_to == "model.model.embed_tokens"
    assert sum(parameter.numel() for parameter in task.model.parameters()) == 260_032


def test_model_equals_llama2c_formula(folder: Path) -> None:
    """The forward pass of llama2.c's model.py (rotary pairs as complex numbers), written out on the raw arrays."""
    content = (folder / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv, vocabulary, _ = struct.unpack("<7i", content[:28])
    raw, at = torch.from_numpy(np.frombuffer(content, "<f4", offset=28).copy()), 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        at += int(np.prod(shape))
        return raw[at - int(np.prod(shape)) : at].view(shape)

    size = dim // heads
    embedding, norm1 = take(vocabulary, dim), take(layers, dim)
    wq, wk, wv, wo = take(layers, dim, dim), take(layers, kv * size, dim), take(layers, kv * size, dim), take(layers, dim, dim)
    norm2, w1, w2, w3, last = take(layers, dim), take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim), take(dim)
    tokens = torch.tensor([1, 403, 407, 261, 378, 432, 383, 286])
    n = len(tokens)
    angles = torch.outer(torch.arange(n), 10000.0 ** (-torch.arange(0, size, 2) / size))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def normed(x: Tensor, gain: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gain

    def rotated(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.reshape(n, -1, size // 2, 2)) * turn).flatten(2)

    x = embedding[tokens]
    for i in range(layers):
        h = normed(x, norm1[i])
        q, k, v = rotated(h @ wq[i].T), rotated(h @ wk[i].T), (h @ wv[i].T).view(n, kv, size)
        k, v = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5 + torch.full((n, n), -torch.inf).triu(1)
        x = x + torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1) @ wo[i].T
        h = normed(x, norm2[i])
        x = x + (F.silu(h @ w1[i].T) * (h @ w3[i].T)) @ w2[i].T
    expected = normed(x, last) @ embedding.T
    with torch.no_grad():
        logits = read_model(folder / "stories260K.bin")(input_ids=tokens[None]).logits[0]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_halves_takes_even_rows_first() -> None:
    weight = torch.arange(8.0)[:, None]
    assert halves(weight, 2).flatten().tolist() == [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-4], "holds 1056536 bytes; its header .* makes 1056540"),
        (lambda content: b"", "does not begin like a llama2.c checkpoint"),
        (lambda content: struct.pack("<i", -64) + content[4:], "does not begin like a llama2.c checkpoint"),
    ],
)
def test_damaged_weights_are_refused(folder: Path, tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "stories260K.bin"
    path.write_bytes(change((folder / "stories260K.bin").read_bytes()))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        read_model(path)


def test_text_of_the_user_is_read_in_order(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time, there was a little girl.\n" * 40, encoding="utf-8")
    sizes = {"train_size": 1, "calib_size": 1, "valid_size": 2, "test_size": 3}
    task = load("stories260k", {"path": str(folder), "text": str(text), "length": 32, **sizes})
    tokenizer = read_tokenizer(folder / "tok512.bin", 512)
    line = tokenizer.encode("Once upon a time, there was a little girl.\n")
    assert [BOS, *line, *line, *line][:32] == task.train[0][0][0].tolist()  # type: ignore[index]
    whole = [
        token for split in (task.train, task.calib, task.valid, task.test) for _, targets in split for token in targets.flatten().tolist()
    ]
    assert whole == (line * 40)[: 7 * 32]
    with pytest.raises(InputError, match=r"has \d+ tokens; 7 sequences of 256 need 1792: ask for fewer"):
        load("stories260k", {"path": str(folder), "text": str(text), **sizes})
    with pytest.raises(InputError, match="does not exist; give the path of a UTF-8 text file"):
        load("stories260k", {"path": str(folder), "text": str(tmp_path / "no.txt"), **sizes})
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8"):
        load("stories260k", {"path": str(folder), "text": str(text), **sizes})
    with pytest.raises(InputError, match="length = 513: give a whole number from 1 to 512"):
        load("stories260k", {"path": str(folder), "length": 513})
