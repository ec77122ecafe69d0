"""Networks as OpenVINO's intermediate representation. The home of openvino, an optional dependency, which is imported when it is used."""

import sys
from importlib import metadata
from typing import Any

from quant_core.util.errors import InputError

MESSENGER = "openvino_telemetry"
"""By this openvino sends statistics to its vendor whenever it is imported, from a process of its own; where it is absent, nothing."""


def library() -> Any:
    """Return the module `openvino`, which is kept from sending statistics about its use.

    Raises:
        InputError: it is not installed.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(MESSENGER, None)
    try:
        import openvino
    except ImportError as error:
        raise InputError(f"the runtime openvino needs openvino ({error}): pip install 'bitfront[openvino]'.") from error
    return openvino


def version() -> str:
    """Return the version of the installed openvino."""
    return metadata.version("openvino")
