"""A training run on disk: everything that the next step depends on, in one file that is whole or absent and holds its own hash."""

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quant_core.util.errors import InputError
from quant_core.util.files import write_bytes

SCHEMA = "bitfront.qat/2"
State = dict[str, object]


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """The file that holds the state of a training run.

    Attributes:
        path: of the file.
        every: after how many steps it is written; 0: after every epoch.
        cached: the file is bitfront's own, in its cache folder: where it is damaged or of another run, the training starts anew and
            replaces it. Otherwise such a file is refused.
    """

    path: Path
    every: int = 0
    cached: bool = False


class DamagedCheckpointError(InputError):
    """A file that does not hold what `save` wrote into it."""


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
    torch.save({"schema": SCHEMA, "identity": identity, "sha256": content_hash([identity, state]), "state": state}, buffer)
    write_bytes(path, buffer.getvalue())


def load(path: Path, identity: str) -> State | None:
    """Return the state that `save` wrote, or None where there is no file.

    Raises:
        DamagedCheckpointError: it is no checkpoint, or not as it was written.
        InputError: it is the checkpoint of another run.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise DamagedCheckpointError(
            f"{path} is no checkpoint of quantization-aware training ({reason}); delete it or give another path."
        ) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DamagedCheckpointError(f"{path} is no checkpoint of {SCHEMA}; delete it or give another path.")
    state, other = content.get("state"), content.get("identity")
    if not isinstance(state, dict) or content.get("sha256") != content_hash([other, state]):
        raise DamagedCheckpointError(f"{path} does not hold what its hash says; delete it or give another path.")
    if other != identity:
        raise InputError(f"{path} is the checkpoint of another run ({other}; this is {identity}); delete it or give another path.")
    return state


def require_numbers(path: Path, model: nn.Module) -> None:
    """Refuse a network restored from `path` that holds NaN: training never ends so.

    Raises:
        DamagedCheckpointError: with the name of the first such tensor.
    """
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any()):
            raise DamagedCheckpointError(f"{path} holds NaN in {name}; delete it or give another path.")


def content_hash(content: object) -> str:
    """Return the SHA-256 of nested dicts, lists and tuples of tensors and plain values."""
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", content: object) -> None:
    if isinstance(content, Tensor):
        digest.update(f"{content.dtype}{tuple(content.shape)}".encode())
        digest.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(content, dict | list | tuple):
        digest.update(f"{type(content) is dict}{len(content)}".encode())
        for part in (part for item in content.items() for part in item) if isinstance(content, dict) else content:
            _feed(digest, part)
    else:
        digest.update(f"{type(content).__name__}{content!r}\0".encode())
