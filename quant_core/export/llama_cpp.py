"""A GGUF file run by llama.cpp in a fresh process: the loader and the kernels that users have."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quant_core.export.processes import fresh_process

_CYLLAMA = """
from cyllama.llama import llama_cpp as lib
lib.disable_logging()
class Model(lib.LlamaModel):
    @property
    def n_vocab(self):  # get_logits_ith of cyllama 0.2.18 reads it, and its own class has none
        return self.get_vocab().n_vocab
model = Model(sys.argv[1], verbose=False)
options = lib.LlamaContextParams()
options.n_ctx = options.n_batch = options.n_ubatch = int(sys.argv[2])
options.n_threads = options.n_threads_batch = 1
options.type_k = options.type_v = 0
options.flash_attn_type = 0
options.n_seq_max = 1
context = lib.LlamaContext(model, options, verbose=False)
def logits(tokens):
    context.kv_cache_clear()
    batch = lib.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
    batch.set_batch(tokens, 0, True)
    context.decode(batch)
    return [context.get_logits_ith(i) for i in range(len(tokens))]
"""
_LLAMA_CPP = """
import llama_cpp
model = llama_cpp.Llama(
    sys.argv[1], n_ctx=int(sys.argv[2]), n_batch=int(sys.argv[2]), n_ubatch=int(sys.argv[2]), n_threads=1, n_threads_batch=1,
    logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False,
)
def logits(tokens):
    model.reset()
    model.eval(tokens)
    return model.scores[:len(tokens)].copy()
"""
_RUN = """
while (given := read()) is not None:
    write({"logits": numpy.array([logits([int(token) for token in row]) for row in given["tokens"]], dtype="float32")})
"""
ENGINES = {"llama_cpp": ("llama-cpp-python", _LLAMA_CPP), "cyllama": ("cyllama", _CYLLAMA)}
"""Module -> (name of its distribution, how it opens a file)."""


def engine() -> str:
    """Return the module of an installed binding of llama.cpp, or ""."""
    return next((module for module in ENGINES if importlib.util.find_spec(module) is not None), "")


@contextmanager
def running(path: Path, context: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Open a file in a fresh process, on one thread, with keys and values in float32.

    Args:
        path: of the file.
        context: tokens of the longest sequence.

    Yields:
        a function from tokens [B, T] to logits [B, T, vocabulary], float32.
    """
    module = engine()
    name, script = ENGINES[module]
    with fresh_process(script + _RUN, str(path), str(context), runtime=f"llama.cpp ({name})") as process:

        def run(tokens: Tensor) -> Tensor:
            return torch.from_numpy(process({"tokens": tokens.numpy().astype(np.int64)})["logits"])

        yield run
