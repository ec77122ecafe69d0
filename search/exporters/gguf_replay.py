"""A GGUF file run on the test split: by llama.cpp, or its tensors decoded by the gguf library, both in a fresh process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.export import llama_cpp
from quant_core.export.processes import fresh_process
from quant_core.network.copies import sharing_copy
from quant_core.network.forward import forward
from quant_core.network.parameters import state_name
from search.exporters import Bundle
from search.exporters.pretrained import Answer, Replaced, inner_name
from search.exporters.verify import Compared, compare, require_close, require_near

Checks = dict[str, float | str]
_DECODE = """
import gguf
reader = gguf.GGUFReader(sys.argv[1])
while read() is not None:
    write({t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)]) for t in reader.tensors})
"""


class _Other(Exception):  # noqa: N818
    """A call that llama.cpp does not answer: of other inputs than whole sequences of tokens."""


def replayed(
    bundle: Bundle, path: Path, names: Mapping[str, str], rows: Mapping[str, NDArray[np.int64]], *, runs: bool
) -> tuple[Checks, tuple[str, ...]]:
    """Return the checks of a run on the test split, and notes.

    Args:
        bundle: of the export.
        path: of the file.
        names: tensor of the network -> tensor of the file.
        rows: tensor of the file -> order of its rows, where it is not that of the network.
        runs: llama.cpp computes this network.

    Raises:
        BitfrontError: the outputs are not those of the simulation.
    """
    decoded = require_close(bundle, _decoded(bundle, path, names, rows), "the network decoded from GGUF", rounded=bundle.round_scales)
    checks: Checks = dict(decoded.checks) | {"runtime": "gguf.quants.dequantize, torch"}
    if not runs:
        return checks, ()
    if not llama_cpp.engine():
        return checks, ("llama.cpp was not run: pip install llama-cpp-python, or cyllama, and export again",)
    try:
        compared = _by_llama_cpp(bundle, path)
    except _Other as error:
        return checks, (f"llama.cpp was not run: {error}",)
    require_near(compared, "llama.cpp")
    runtime = f"llama.cpp ({llama_cpp.ENGINES[llama_cpp.engine()][0]})"
    checks = dict(compared.checks) | {"runtime": runtime, "decoded_largest_output_difference": decoded.difference}
    return checks, ("llama.cpp rounds the inputs of quantized layers to 8 bits in blocks: outputs differ by that",)


def _decoded(bundle: Bundle, path: Path, names: Mapping[str, str], rows: Mapping[str, NDArray[np.int64]]) -> Compared:
    """Compare a network that holds the tensors that a fresh process decodes."""
    with fresh_process(_DECODE, str(path), runtime="the gguf library") as process:
        read = process({})
    model = sharing_copy(bundle.network.plain)
    for name, stored in names.items():
        values = read[stored]
        if f"{stored.removesuffix('.weight')}.scale" in read and stored.endswith(".weight"):
            values = values * read[f"{stored.removesuffix('.weight')}.scale"]
        if stored in rows:
            values = values[np.argsort(rows[stored])]
        place, _, leaf = name.rpartition(".")
        _put(model.get_submodule(place), leaf, torch.from_numpy(np.ascontiguousarray(values)))
    _tie(bundle, model, names)
    return compare(bundle, lambda inputs: forward(model, inputs))


def _put(module: nn.Module, leaf: str, values: Tensor) -> None:
    old = getattr(module, leaf)
    new = values.reshape(old.shape).to(old.dtype)
    if leaf in module._parameters:
        module.register_parameter(leaf, nn.Parameter(new, requires_grad=False))
    else:
        module.register_buffer(leaf, new)


def _tie(bundle: Bundle, model: nn.Module, names: Mapping[str, str]) -> None:
    """Give layers that are tied to another one, and are not in the file, its weight."""
    for stored in bundle.network.stored:
        name = state_name(bundle.network.base, stored.layer.name)
        owner = state_name(bundle.network.base, stored.owner)
        if name not in names and owner in names:
            place, _, leaf = name.rpartition(".")
            model.get_submodule(place).register_parameter(leaf, model.get_parameter(owner))


def _by_llama_cpp(bundle: Bundle, path: Path) -> Compared:
    """Compare the outputs of llama.cpp.

    Raises:
        _Other: the task calls the network otherwise than with whole sequences of tokens.
    """
    inner = inner_name(bundle.task.model)
    assert inner is not None
    config: Any = bundle.task.model.get_submodule(inner).config
    context = int(config.max_position_embeddings)
    with llama_cpp.running(path, context) as run:

        def answer(arguments: dict[str, Any]) -> Answer:
            return "transformers.modeling_outputs.CausalLMOutputWithPast", {"logits": run(_tokens(arguments))}

        replaced = Replaced(bundle.network.plain, inner, answer)
        compared = compare(bundle, replaced)
    if not replaced.calls:
        raise _Other("the task does not call the network as a whole")
    return compared


def _tokens(arguments: dict[str, Any]) -> Tensor:
    mask = arguments.get("attention_mask")
    if "input_ids" not in arguments or (mask is not None and not bool(mask.all())):
        raise _Other("the task gives the network padded sequences, or embeddings")
    tokens: Tensor = arguments["input_ids"]
    return tokens
