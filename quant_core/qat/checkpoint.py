"""A training run on disk: everything that the next step depends on, in one file that is whole or absent."""

import io
import pickle
from pathlib import Path

import torch

from quant_core.util.errors import InputError
from quant_core.util.files import write_bytes

SCHEMA = "bitfront.qat/1"
State = dict[str, object]


def save(path: Path, identity: str, state: State) -> None:
    """Write `state` under a temporary name and rename it.

    Args:
        path: the file.
        identity: of the run: its configuration, its network and its number of batches.
        state: tensors, numbers, strings, lists and dicts of them.

    Raises:
        InputError: the place cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "identity": identity, "state": state}, buffer)
    write_bytes(path, buffer.getvalue())


def load(path: Path, identity: str) -> State | None:
    """Return the state that `save` wrote, or None where there is no file.

    Raises:
        InputError: it is no checkpoint, or one of another run.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is no checkpoint of quantization-aware training ({error}); delete it or give another path.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path} is no checkpoint of {SCHEMA}; delete it or give another path.")
    if content["identity"] != identity:
        raise InputError(
            f"{path} is the checkpoint of another run ({content['identity']}; this is {identity}); delete it or give another path."
        )
    state: State = content["state"]
    return state
