"""`torchao.pt`: the network's state with its linear weights as torchao's tensors, the codes and scales of the policy.

    model.load_state_dict(torch.load("torchao.pt"), assign=True)    # after `import torchao.quantization`

torchao holds integers of 1 to 8 bits in one byte each (`IntxUnpackedToInt8Tensor`), for every machine.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant_core.export.processes import FreshProcess, fresh_process
from quant_core.export.stored import StoredLayer
from quant_core.network.copies import sharing_copy
from quant_core.network.forward import forward
from quant_core.network.parameters import state_name
from quant_core.util.errors import BitfrontError
from quant_core.util.quiet import quiet_library
from quant_core.util.text import first_fault
from search.exporters import Bundle
from search.exporters.verify import compare, require_close, require_near

FILE = "torchao.pt"
_INTX = "torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor"
_RUN = """
import logging
logging.disable(logging.WARNING)
import torch, torchao.quantization
torch.set_num_threads(1)
state = torch.load(sys.argv[1])
while (given := read()) is not None:
    name, inputs = bytes(given["name"]).decode(), torch.from_numpy(given["inputs"])
    with torch.no_grad():
        write({"outputs": torch.nn.functional.linear(inputs, state[f"{name}.weight"], state.get(f"{name}.bias")).numpy()})
"""


def write_weights(bundle: Bundle, path: Path) -> dict[str, float | str]:
    """Write the state, read it back, and run its linear layers by torchao in a fresh process; return the checks.

    Raises:
        BitfrontError: what is read back is not the policy, or the outputs are not those of the simulation.
    """
    with quiet_library():
        return _checked(bundle, path)


def _checked(bundle: Bundle, path: Path) -> dict[str, float | str]:
    state: dict[str, Tensor] = {name: tensor.detach().contiguous() for name, tensor in bundle.network.plain.state_dict().items()}
    held = {stored.layer.name: stored for stored in bundle.network.stored if stored.encoded is not None and stored.layer.kind == "linear"}
    for name, stored in held.items():
        state[state_name(bundle.network.base, name)] = torchao_tensor(stored)
    torch.save(state, path)
    types = _read_back(bundle, path, held)
    with fresh_process(_RUN, str(path), runtime="torchao") as process:
        model = sharing_copy(bundle.network.plain)
        for name in held:
            object.__setattr__(model.get_submodule(name), "forward", _remote(process, name))
        comparison = compare(bundle, lambda inputs: forward(model, inputs))
    if all(stored.policy.activation.is_float for stored in held.values()):
        comparison = require_close(bundle, comparison, "torchao")
    else:  # it rounds inputs by its own function
        require_near(comparison, "torchao")
    checks = {f"weights_{name}": value for name, value in comparison.checks.items()}
    return checks | {"stored_types": types, "file_bytes": path.stat().st_size}


def torchao_tensor(stored: StoredLayer) -> Any:
    """Return a linear weight as torchao's tensor of its codes and scales."""
    spec, encoded = stored.policy.weight, stored.encoded
    assert encoded is not None
    assert encoded.scale is not None
    half, columns = 2 ** (spec.bits - 1), encoded.codes.shape[1]
    zero = torch.zeros_like(encoded.scale) if encoded.zero_point is None else encoded.zero_point - half
    dynamic = import_module(_INTX).IntxUnpackedToInt8TensorActivationQuantization
    return import_module("torchao.quantization").IntxUnpackedToInt8Tensor(
        (encoded.codes.to(torch.int16) - half).to(torch.int8),
        encoded.scale.to(stored.weight.dtype),
        zero.to(torch.int8),
        getattr(torch, f"int{spec.bits}"),
        (1, spec.block if spec.granularity == "group" else columns),
        stored.weight.dtype,
        None if stored.policy.activation.is_float else dynamic.INT8_ASYM_PER_TOKEN,
    )


def _remote(process: FreshProcess, name: str) -> Callable[[Tensor], Tensor]:
    def linear(inputs: Tensor) -> Tensor:
        answer = process({"name": np.frombuffer(name.encode(), dtype=np.uint8), "inputs": inputs.numpy()})
        return torch.from_numpy(answer["outputs"])

    return linear


def _read_back(bundle: Bundle, path: Path, held: Mapping[str, StoredLayer]) -> str:
    """Return the types of the tensors with how many layers have them.

    Raises:
        BitfrontError: a layer has other bits or values than the policy.
    """
    read, faults, counted = torch.load(path), [], Counter[str]()
    for name, stored in held.items():
        tensor: Any = read[state_name(bundle.network.base, name)]
        bits = str(getattr(tensor, "target_dtype", tensor.dtype)).removeprefix("torch.")
        counted[bits] += 1
        if bits != f"int{stored.policy.weight.bits}":
            faults.append(f"layer {name!r} is stored as {bits}, {stored.policy.weight} was asked for")
        elif not torch.equal(tensor.dequantize(), stored.weight):
            faults.append(f"layer {name!r} does not decode to the values of {stored.policy.weight}")
    if faults:
        raise BitfrontError(f"{path.name}: {first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(counted.items())) or "float"
