"""A folder of transformers run on the test split by transformers, in a fresh process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.processes import fresh_process
from quant_core.util.errors import BitfrontError
from search.exporters import Bundle
from search.exporters.pretrained import Answer, Replaced
from search.exporters.verify import compare, require_close, require_near

_RUN = """
import json, logging, warnings
logging.disable(logging.WARNING)
import torch, transformers
torch.set_num_threads(1)
config = json.load(open(os.path.join(sys.argv[1], "config.json")))
kind = getattr(transformers, config["architectures"][0])
model, found = kind.from_pretrained(sys.argv[1], dtype="auto", output_loading_info=True, local_files_only=True)
other = sorted(found["unexpected_keys"])  # a layer that the network was made without, a pooler say, has new values; outputs tell
if other:
    raise RuntimeError(f"Error: transformers has no place for {other[:3]}")
model.eval()
while (given := read()) is not None:
    plain = json.loads(bytes(given.pop("plain")))
    with torch.inference_mode():
        out = model(**{name: torch.from_numpy(values) for name, values in given.items()}, **plain)
    answer = {name: value.float().numpy() for name, value in out.items() if torch.is_tensor(value)}
    kind = f"{type(out).__module__}.{type(out).__qualname__}"
    write(answer | {"kind": numpy.frombuffer(kind.encode(), dtype="uint8")})
"""


def replayed(bundle: Bundle, folder: Path, inner: str) -> dict[str, float | str]:
    """Return the checks of a run on the test split; `inner` is the place of the transformers network in the task's.

    Raises:
        BitfrontError: transformers does not load the folder, or its outputs are not those of the simulation.
    """
    with fresh_process(_RUN, str(folder), runtime="transformers") as process:

        def answer(arguments: dict[str, Any]) -> Answer:
            out = process(_message(arguments))
            kind = bytes(out.pop("kind")).decode()
            return kind, {name: torch.from_numpy(values) for name, values in out.items()}

        replaced = Replaced(bundle.network.plain, inner, answer)
        comparison = compare(bundle, replaced)
    if not replaced.calls:
        raise BitfrontError("the task does not call its transformers network as a whole, so the folder was not run. Nothing was written.")
    halves = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in bundle.network.plain.state_dict().values())
    minifloats = any(stored.policy.weight.format in ("nvfp4", "mxfp4") for stored in bundle.network.stored)
    if halves or minifloats:
        require_near(comparison, "transformers")
    else:
        comparison = require_close(bundle, comparison, "transformers")
    return dict(comparison.checks) | {"runtime": "transformers, compressed-tensors"}


def _message(arguments: dict[str, Any]) -> dict[str, NDArray[Any]]:
    tensors = {name: value.numpy() for name, value in arguments.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
    return tensors | {"plain": np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)}
