"""The recipe of the Llama: byte-level BPE, then 1.25 passes over the text with Muon (Jordan et al. 2024) and AdamW."""

import contextlib
import logging
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.quiet import quiet_library
from search.tasks.cache import State, trained
from search.tasks.llama10m.text import documents
from search.tasks.splits import permutation

logger = logging.getLogger(__name__)

END = "<|end|>"
"""The token, number 0, before every document."""
VALID, TEST = 0.06, 0.10
"""Shares of the documents."""
TOKENS = "tokens"


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on, beside Python's version.

    Attributes:
        vocabulary: tokens of the tokenizer.
        hidden, inner, layers, heads, kv_heads: of the Llama.
        context: longest sequence, in tokens.
        length, batch: of the sequences of a training step.
        epochs: passes over the training text.
        rate: of Muon, for the matrices of the layers.
        adam_rate: of AdamW, for embedding and norms.
        bfloat16: products of training are computed so, where the processor has instructions for it.
        seed: of weights, order and splits.
    """

    vocabulary: int = 2048
    hidden: int = 320
    inner: int = 960
    layers: int = 8
    heads: int = 10
    kv_heads: int = 5
    context: int = 512
    length: int = 128
    batch: int = 16
    epochs: float = 1.25
    rate: float = 0.02
    adam_rate: float = 0.004
    bfloat16: bool = True
    seed: int = 0


def weights_and_tokens(recipe: Recipe) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the trained network in eval mode, and the tokens of split -> its documents, [T]; from the cache, or made now (minutes, once).

    Raises:
        InputError: transformers is not installed.
    """
    model = network(recipe)
    state = trained(
        "llama10m", {**asdict(recipe), "python": platform.python_version()}, lambda: _made(recipe), (__name__, "search.tasks.llama10m.text")
    )
    tokens = {split: state.pop(f"{TOKENS}.{split}").long() for split in ("train", "valid", "test")}
    model.load_state_dict(state, strict=False)
    return model.eval(), tokens


def network(recipe: Recipe) -> Any:
    """Return the untrained LlamaForCausalLM.

    Raises:
        InputError: transformers is not installed.
    """
    try:
        with quiet_library():
            from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise InputError(f"the task llama10m needs transformers ({error}): pip install 'bitfront[transformers]'.") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=recipe.vocabulary,
                hidden_size=recipe.hidden,
                intermediate_size=recipe.inner,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.kv_heads,
                max_position_embeddings=recipe.context,
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
            )
        )


def _made(recipe: Recipe) -> State:
    parts = divided(documents(), recipe.seed)
    tokens = encoded(parts, recipe.vocabulary)
    model = network(recipe)
    _train(model, tokens["train"], recipe)
    stored = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    return {**stored, **{f"{TOKENS}.{split}": ids.to(torch.int16) for split, ids in tokens.items()}}


def divided(texts: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Return split -> its documents, in a random order by seed."""
    order = permutation(len(texts), seed).tolist()
    valid, test = (max(1, int(share * len(texts))) for share in (VALID, TEST))
    cuts = {"valid": order[:valid], "test": order[valid : valid + test], "train": order[valid + test :]}
    return {split: [texts[k] for k in picked] for split, picked in cuts.items()}


def encoded(parts: dict[str, list[str]], vocabulary: int) -> dict[str, Tensor]:
    """Return the tokens [T] of every split, by a byte-level BPE of the training text; every document begins with token 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(parts["train"], trainer)
    return {
        split: torch.tensor([token for text in texts for token in (0, *tokenizer.encode(text).ids)], dtype=torch.long)
        for split, texts in parts.items()
    }


def _train(model: nn.Module, tokens: Tensor, recipe: Recipe) -> None:
    rows = tokens[: len(tokens) // (recipe.length + 1) * (recipe.length + 1)].view(-1, recipe.length + 1)
    steps = int(recipe.epochs * len(rows) / recipe.batch)
    order = torch.cat([permutation(len(rows), recipe.seed + k) for k in range(math.ceil(recipe.epochs) + 1)])
    optimizers = _optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _share(k, steps)) for optimizer in optimizers]
    model.train()
    start, total = time.perf_counter(), 0.0
    for step in range(steps):
        batch = rows[order[step * recipe.batch : (step + 1) * recipe.batch]]
        with _precision(recipe):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        total = float(loss.detach()) if not step else 0.95 * total + 0.05 * float(loss.detach())
        if not math.isfinite(total):
            raise BitfrontError(f"training llama10m diverged in step {step + 1} of {steps}.")
        if step % 50 == 49:
            logger.info("llama10m: step %d of %d, loss %.3f, %.0f s", step + 1, steps, total, time.perf_counter() - start)


def _share(step: int, steps: int) -> float:
    """Return the learning rate as a share of the largest: 5 % of the steps up, then linearly to 0."""
    return min(1.0, (step + 1) / max(1, 0.05 * steps), (steps - step) / steps)


def _optimizers(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the layers' matrices, AdamW for the rest."""
    outer = ("embed", "lm_head")
    matrices = {id(p): p for name, p in model.named_parameters() if p.dim() == 2 and not any(part in name for part in outer)}
    rest = [p for p in model.parameters() if id(p) not in matrices]
    muon = torch.optim.Muon(list(matrices.values()), lr=recipe.rate, weight_decay=0.01)
    return muon, torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0)


def _precision(recipe: Recipe) -> contextlib.AbstractContextManager[object]:
    fast = recipe.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", dtype=torch.bfloat16) if fast else contextlib.nullcontext()
