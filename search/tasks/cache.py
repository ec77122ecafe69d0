"""Weights that a recipe trained, kept in the user's cache directory: trained once, verified at every read."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quant_core.util.cache_key import cache_key
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder

State = dict[str, Tensor]
Recipe = Mapping[str, object]

logger = logging.getLogger(__name__)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes, types and bytes of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def trained(name: str, recipe: Recipe, train: Callable[[], State], code: tuple[str, ...] = ()) -> State:
    """Return the weights that `recipe` gives: from the cache, or trained now and put there.

    The file is named after the hash of recipe and code, so that another of either trains anew; it carries the recipe and the hash of its
    tensors, so a damaged file is noticed and trained anew. It is written under a temporary name and renamed: a reader sees all of it or
    nothing.

    Args:
        name: what is trained, the start of the file name.
        recipe: everything the weights depend on, as JSON types: network, data hash, hyper-parameters, seed.
        train: makes the weights when the cache lacks them.
        code: modules and packages that train; a change in them trains anew.

    Raises:
        InputError: the cache folder cannot be written.
    """
    text = json.dumps(recipe, sort_keys=True)
    path = cache_folder() / f"{name}-{cache_key('trained', code, name, text)}.safetensors"
    kept = _read(path, text)
    if kept is not None:
        return kept
    _require_writable(path.parent)
    logger.info("training %s (once; kept in %s)", name, path)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in train().items()}
    earlier = _read(path, text)  # another process may have finished first: all must use the same weights
    if earlier is not None:
        return earlier
    _write(path, state, text)
    return state


def _read(path: Path, recipe: str) -> State | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safetensors file is no dict
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s): training anew", path, error)
        return None
    if metadata.get("recipe") != recipe or metadata.get("sha256") != digest(state):
        logger.warning("%s does not hold what its hash says: training anew", path)
        return None
    return state


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write trained weights to {folder}: {error}. Set BITFRONT_CACHE to a writable folder.") from error


def _write(path: Path, state: State, recipe: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(state, metadata={"recipe": recipe, "sha256": digest(state)}))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
