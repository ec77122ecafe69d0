"""Networks as OpenVINO's intermediate representation. The home of openvino, an optional dependency, which is imported when it is used."""

from importlib import metadata
from typing import Any

from quant_core.util.errors import InputError


def library() -> Any:
    """Return the module `openvino`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise InputError(f"the runtime openvino needs openvino ({error}): pip install 'bitfront[openvino]'.") from error
    return openvino


def version() -> str:
    """Return the version of the installed openvino."""
    return metadata.version("openvino")
