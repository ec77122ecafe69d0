"""Networks as files of LiteRT (TFLite). The home of ai_edge_litert, an optional dependency, which is imported when it is used."""

from importlib import import_module, metadata
from typing import Any

from quant_core.util.errors import InputError

PACKAGE = "ai-edge-litert"


def library(name: str) -> Any:
    """Return the module `ai_edge_litert.NAME`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ai_edge_litert

        return import_module(f"{ai_edge_litert.__name__}.{name}")
    except ImportError as error:
        raise InputError(f"the runtime litert needs {PACKAGE} ({error}): pip install 'bitfront[litert]'.") from error


def version() -> str:
    """Return the version of the installed ai-edge-litert."""
    return metadata.version(PACKAGE)
