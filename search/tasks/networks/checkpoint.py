"""Trained weights from a safetensors or torch checkpoint file: tensors only, names without the prefix of DataParallel."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from quant_core.util.errors import InputError


def load_checkpoint(model: nn.Module, path: Path) -> nn.Module:
    """Load a checkpoint into `model` and return it in eval mode.

    Args:
        model: untrained.
        path: a safetensors file, or one of torch.save: a state dict, or a dict that holds one under "state_dict". A prefix "module." is
            dropped. It is read with weights_only=True, so it cannot run code.

    Raises:
        InputError: no such file, no such form, or the weights of another network.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; give the path of a safetensors file, or of one that torch.save wrote.")
    try:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"checkpoint {path} cannot be read as a file of tensors: {error}") from error
    state = held.get("state_dict", held) if isinstance(held, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"checkpoint {path} holds no state dict (names -> tensors), nor one under 'state_dict'.")
    try:
        model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    except RuntimeError as error:
        raise InputError(f"checkpoint {path} is not of this network, a {type(model).__name__}: {error}") from error
    return model.eval()
