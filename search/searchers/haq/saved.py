"""A trained agent as a file: the networks of actor and critic in safetensors, and what their inputs are. Nothing in it can run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quant_core.util.errors import InputError
from quant_core.util.files import write_bytes
from quant_core.util.text import given, listed

SCHEMA = "bitfront.agent/1"
METADATA = "bitfront"


@dataclass(frozen=True, eq=False)
class SavedAgent:
    """What an agent learned, to start another one with.

    Attributes:
        weights: of actor, critic and their targets, by name.
        inputs: names of the columns of its state, in order.
        source: the sweep in which it learned.
    """

    weights: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    source: str = ""

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        about = json.dumps({"schema": SCHEMA, "inputs": self.inputs, "source": self.source})  # one entry: several have no order
        write_bytes(path, save({name: tensor.contiguous() for name, tensor in self.weights.items()}, {METADATA: about}))

    def check(self, inputs: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], path: str) -> None:
        """Refuse an agent whose state or networks are not those of the one that it is to start.

        Raises:
            InputError: says what differs.
        """
        if self.inputs != inputs:
            raise InputError(f"agent {path!r} sees {listed(self.inputs)}; this one sees {listed(inputs)}. Save one of such a sweep.")
        mine = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        if mine != dict(shapes):
            raise InputError(f"agent {path!r} has networks of other shapes than this version's; save it again with `bitfront agent save`.")


def read_agent(path: str) -> SavedAgent:
    """Read a file that `SavedAgent.write` wrote.

    Raises:
        InputError: there is none, or it is no agent's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if about.get("schema") != SCHEMA:
                raise InputError(f"{path!r} is no agent: schema {given(about.get('schema'))}, {SCHEMA!r} needed (`bitfront agent save`).")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        inputs, source = tuple(str(name) for name in about["inputs"]), str(about["source"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"agent {path!r} cannot be read ({error}); write one with `bitfront agent save SWEEP --out FILE`.") from None
    return SavedAgent(weights, inputs, source)
