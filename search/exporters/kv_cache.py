"""Which formats of export hold a quantized KV cache: those that say it, for a runtime that has one. Light."""

from collections.abc import Sequence

from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError
from quant_core.util.text import listed
from search.exporters import EXPORTERS

HOLDING = ("policy", "safetensors", "card")


def require_kv_formats(formats: Sequence[str], kvs: Sequence[QuantSpec]) -> None:
    """Refuse formats that hold no network with any of the formats `kvs` of keys and values; a user's own exporters are not checked.

    Raises:
        InputError: which ones, and which ones do.
    """
    others = [name for name in formats if name in EXPORTERS and name not in HOLDING]
    if others and kvs and not any(spec.is_float for spec in kvs):
        raise InputError(
            f"formats {listed(others)} hold no quantized KV cache, and kv = {listed(map(str, kvs))} given; a runtime quantizes its own. "
            f"Export {listed(HOLDING)}, or a policy with kv = 'float'."
        )
