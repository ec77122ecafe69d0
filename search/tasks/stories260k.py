"""A small language model: the 260,032 weights of llama2.c's stories260K in transformers' LlamaForCausalLM, on text sampled from itself."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.util.errors import InputError
from quant_core.util.quiet import quiet_library
from search.tasks.cache import digest, trained
from search.tasks.files import Source, locate
from search.tasks.splits import take, whole
from search.tasks.task import Batch, Task
from search.tasks.tokenizer import BOS, Tokenizer, read_tokenizer

SOURCE = Source(
    "stories260k",
    (("stories260K.bin", "tok512.bin"),),
    "They are on https://huggingface.co/karpathy/tinyllamas (folder stories260K); bitfront never downloads.",
)
MOST = 4096
STEP = 16
FIELDS = ("dim", "hidden", "layers", "heads", "kv_heads", "vocabulary", "context")


def stories260k(
    path: str | None = None,
    text: str | None = None,
    seed: int = 0,
    length: int = 256,
    train_size: int = 192,
    calib_size: int = 16,
    valid_size: int = 32,
    test_size: int = 64,
) -> Task:
    """Return the stories260K language model, judged token by token: the score is top-1, the loss is in nats (perplexity = exp(loss)).

    Args:
        path: folder with stories260K.bin and tok512.bin, or the folder above a `stories260k` that holds them; default BITFRONT_DATA.
        text: a UTF-8 text file to judge by; without it, stories sampled from the float model at temperature 1 (once, then cached).
        seed: of the sampling.
        length: tokens per sequence, at most the model's context of 512.
        train_size, calib_size, valid_size, test_size: how many sequences; of a text, consecutive ones.

    Raises:
        InputError: missing or damaged files, transformers is not installed, a text that is too short, a size or length out of range.
    """
    folder, (weights, tokens) = locate(SOURCE, path)
    model = read_model(folder / weights)
    take("length", length, model.config.max_position_embeddings)
    whole("seed", seed, 0)
    named = {"train_size": train_size, "calib_size": calib_size, "valid_size": valid_size, "test_size": test_size}
    sizes = [take(name, size, MOST) for name, size in named.items()]
    tokenizer = read_tokenizer(folder / tokens, model.config.vocab_size)
    count = sum(sizes)
    sequences = _sampled(model, count, length, seed) if text is None else _read(Path(text).expanduser(), tokenizer, count, length)
    train, calib, valid, test = (_batches(part) for part in torch.split(sequences, sizes))
    return Task(NextToken(model).eval(), train, calib, valid, test, token_top1, token_loss, class_axis=-1, tokenizer=tokenizer)


class NextToken(nn.Module):
    """A causal language model that gives nothing but its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, T] to the logits of what comes next, [B, T, vocabulary]."""
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def token_top1(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1.0 where the likeliest token is the next one, else 0.0: [B, T, V], [B, T] -> [B, T]."""
    return (logits.argmax(dim=-1) == targets).to(torch.float32)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per token in nats, the logarithm of the perplexity: [B, T, V], [B, T] -> scalar."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def read_model(path: Path) -> Any:
    """Return llama2.c's checkpoint (version 0: 7 int32 and float32 arrays, little-endian) as a LlamaForCausalLM in eval mode.

    Raises:
        InputError: the file has another size than its header says; transformers is not installed.
    """
    content = path.read_bytes()
    header = dict(zip(FIELDS, struct.unpack_from("<7i", content.ljust(28, b"\0")), strict=True))
    model = _llama(header, path)
    values = np.frombuffer(content, dtype="<f4", offset=28) if len(content) % 4 == 0 and len(content) > 28 else np.empty(0, "<f4")
    rotary = header["context"] * (header["dim"] // header["heads"])  # the cosines and sines of rotary embedding: transformers makes its own
    expected = sum(parameter.numel() for parameter in model.parameters()) + rotary
    if values.size != expected:
        raise InputError(f"{path} holds {len(content)} bytes; its header {header} makes {28 + 4 * expected}. Get it again.")
    _fill(model, torch.from_numpy(values.astype(np.float32)), header)
    return model.eval()


def _llama(header: dict[str, int], path: Path) -> Any:
    try:
        with quiet_library():
            from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise InputError(f"the task stories260k needs transformers ({error}): pip install 'bitfront[transformers]'.") from error
    if not all(0 < value < 2**20 for value in header.values()) or header["dim"] % header["heads"] or header["heads"] % header["kv_heads"]:
        raise InputError(f"{path} does not begin like a llama2.c checkpoint with tied embeddings: {header}.")
    config = LlamaConfig(
        vocab_size=header["vocabulary"],
        hidden_size=header["dim"],
        intermediate_size=header["hidden"],
        num_hidden_layers=header["layers"],
        num_attention_heads=header["heads"],
        num_key_value_heads=header["kv_heads"],
        max_position_embeddings=header["context"],
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def _fill(model: Any, values: Tensor, header: dict[str, int]) -> None:
    """Copy the arrays, in llama2.c's order, into the model's parameters."""
    layers = model.model.layers
    order = [
        [model.model.embed_tokens.weight],
        [layer.input_layernorm.weight for layer in layers],
        [layer.self_attn.q_proj.weight for layer in layers],
        [layer.self_attn.k_proj.weight for layer in layers],
        [layer.self_attn.v_proj.weight for layer in layers],
        [layer.self_attn.o_proj.weight for layer in layers],
        [layer.post_attention_layernorm.weight for layer in layers],
        [layer.mlp.gate_proj.weight for layer in layers],
        [layer.mlp.down_proj.weight for layer in layers],
        [layer.mlp.up_proj.weight for layer in layers],
        [model.model.norm.weight],
    ]
    at = 0
    with torch.no_grad():
        for parameter in (parameter for group in order for parameter in group):
            parameter.copy_(values[at : at + parameter.numel()].view_as(parameter))
            at += parameter.numel()
        for layer in layers:
            for projection, heads in ((layer.self_attn.q_proj, header["heads"]), (layer.self_attn.k_proj, header["kv_heads"])):
                projection.weight.copy_(halves(projection.weight, heads))


def halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows [heads * d, n] per head from llama2.c's rotary pairs (0, 1), (2, 3), ... to transformers' (0, d/2), (1, d/2 + 1), ..."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _sampled(model: Any, n: int, length: int, seed: int) -> Tensor:
    recipe = {"weights": digest(model.state_dict()), "sequences": n, "length": length, "seed": seed, "temperature": 1.0}
    return trained("stories260k-text", recipe, lambda: {"tokens": sample(model, n, length, seed)}, (__name__,))["tokens"]


def sample(model: Any, n: int, length: int, seed: int) -> Tensor:
    """Return n sequences sampled from the model at temperature 1, from BOS on, [n, length + 1]."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((n, 1), BOS)
    past = None
    with torch.no_grad():
        for _ in range(length):
            out = model(input_ids=tokens[:, -1:], past_key_values=past, use_cache=True)
            past = out.past_key_values
            following = torch.multinomial(out.logits[:, -1].softmax(dim=1), 1, generator=generator)
            tokens = torch.cat([tokens, following], dim=1)
    return tokens


def _read(path: Path, tokenizer: Tokenizer, n: int, length: int) -> Tensor:
    """Return the first n sequences of a text file, each BOS and `length` tokens, [n, length + 1]."""
    if not path.is_file():
        raise InputError(f"text {path} does not exist; give the path of a UTF-8 text file, or none for sampled stories.")
    tokens: list[int] = []
    for line in _lines(path):
        if len(tokens) >= n * length:
            break
        tokens += tokenizer.encode(line)
    if len(tokens) < n * length:
        raise InputError(f"text {path} has {len(tokens)} tokens; {n} sequences of {length} need {n * length}: ask for fewer.")
    rows = torch.tensor(tokens[: n * length]).view(n, length)
    return torch.cat([torch.full((n, 1), BOS), rows], dim=1)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise InputError(f"text {path} is not UTF-8: {error}") from error


def _batches(sequences: Tensor) -> list[Batch]:
    """Return sequences [n, T + 1] as batches (tokens [b, T], next tokens [b, T])."""
    return [(part[:, :-1], part[:, 1:]) for part in torch.split(sequences, STEP)]
