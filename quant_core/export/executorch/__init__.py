"""Networks as programs of ExecuTorch. The home of executorch, an optional dependency, which is imported when it is used."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

from quant_core.util.errors import InputError


def library(name: str) -> Any:
    """Return the module `executorch.NAME`.

    Raises:
        InputError: it is not installed.
    """
    try:
        with quiet():
            import executorch

            return import_module(f"{executorch.__name__}.{name}")
    except ImportError as error:
        raise InputError(f"the runtime executorch needs executorch ({error}): pip install 'bitfront[executorch]'.") from error


def register() -> None:
    """Load the operators of its graphs and the kernels of its runtime.

    Raises:
        InputError: executorch is not installed.
    """
    for name in ("exir.passes._quant_patterns_and_replacements", "backends.xnnpack.partition.xnnpack_partitioner", "kernels.quantized"):
        library(name)
    with quiet():
        import_module("torchao.quantization.quant_primitives")


def version() -> str:
    """Return the version of the installed executorch."""
    return metadata.version("executorch")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and the log of its compiler."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
