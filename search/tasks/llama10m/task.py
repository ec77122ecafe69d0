"""The task `llama10m`: a Llama of 10.5 M weights, judged by perplexity, and by divergence and flips against the float network."""

import torch
from torch import Tensor

from search.tasks.llama10m.training import Recipe, weights_and_tokens
from search.tasks.splits import take, whole
from search.tasks.stories260k import NextToken, token_loss
from search.tasks.task import Batch, Task

METRICS = ("perplexity", "accuracy", "kld", "flips")


def llama10m(
    length: int = 128,
    train_size: int | None = None,
    calib_size: int = 32,
    valid_size: int = 64,
    test_size: int = 128,
    batch_size: int = 16,
    seed: int = 0,
) -> Task:
    """Return a Llama of 10.5 M weights (8 layers of 320 channels, 2,048 tokens, tied head) on held-out documents of Python's documentation.

    The first time it is trained, in minutes of one core; the cache keeps weights and tokens. Python's version decides the text.

    Args:
        length: tokens per sequence, at most 512.
        train_size, calib_size, valid_size, test_size: how many sequences; calibration takes the first ones of training.
        batch_size: sequences per batch.
        seed: of training, and of the division of the documents.

    Raises:
        InputError: transformers is not installed; a size or length out of range.
    """
    recipe = Recipe(seed=whole("seed", seed, 0))
    take("length", length, recipe.context)
    whole("batch_size", batch_size, 1)
    model, tokens = weights_and_tokens(recipe)
    train, valid, test = (_sequences(tokens[split], length) for split in ("train", "valid", "test"))
    return Task(
        NextToken(model).eval(),
        _batches(train[: take("train_size", train_size, len(train))], batch_size),
        _batches(train[: take("calib_size", calib_size, len(train))], batch_size),
        _batches(valid[: take("valid_size", valid_size, len(valid))], batch_size),
        _batches(test[: take("test_size", test_size, len(test))], batch_size),
        loss=token_loss,
        class_axis=-1,
        metrics=METRICS,
    )


def _sequences(tokens: Tensor, length: int) -> Tensor:
    """Return consecutive windows of tokens, [n, length + 1]; the last of one is the first of the next."""
    return tokens.unfold(0, length + 1, length)


def _batches(rows: Tensor, size: int) -> list[Batch]:
    """Return sequences [n, T + 1] as batches (tokens [b, T], next tokens [b, T])."""
    return [(part[:, :-1], part[:, 1:]) for part in torch.split(rows, size)]
