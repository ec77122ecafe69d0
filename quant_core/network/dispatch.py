"""Recording modes that do not load torch's compiler: importing it takes seconds, in every command and every worker."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RecordingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode whose `__torch_dispatch__` runs outside of compiled code, as torch's own wrapper has it.

    That wrapper imports `torch._dynamo` at the first operation. Where nothing has imported it, nothing is being compiled.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)  # type: ignore[no-untyped-call]
        cls.__torch_dispatch__ = _outside_compiled_code(cls.__torch_dispatch__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def _outside_compiled_code(function: Callable[..., Any]) -> Callable[..., Any]:
    skipping = torch._disable_dynamo(function, recursive=True)  # type: ignore[attr-defined]

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        return (skipping if "torch._dynamo" in sys.modules else function)(*args, **options)

    return run
