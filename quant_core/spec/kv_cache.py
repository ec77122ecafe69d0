"""The formats of a KV cache: the keys and values of attention, every token's row of every head quantized by itself."""

from quant_core.spec.quant_spec import QuantSpec, SpecError

KV_BYTES = "kv_bytes_per_token"
"""The cost: bytes that the keys and values of one more token take, of all layers of attention, with scales and zero points."""
Heads = tuple[tuple[int, int], ...]
"""Of every cached tensor, the keys and the values of every call of attention, how many heads it has and their size."""


def require_kv(spec: QuantSpec) -> QuantSpec:
    """Return a format that a KV cache can have: a token that was written never changes, whatever comes after it.

    Raises:
        SpecError: its scales are shared by several tokens, or it rounds at random or for the inputs of a layer.
    """
    by_row = spec.granularity in ("token", "group") if spec.format == "int" else spec.format.startswith("mx")
    if spec.is_float or (by_row and not spec.weighted and spec.rounding == "nearest"):
        return spec
    raise SpecError(
        f"kv {spec}: a row of a KV cache is quantized by itself, to nearest; write intN:token (a scale per token and head), "
        f"intN:groupG (along a head), an mx format, or float."
    )


def kv_cost(heads: Heads, spec: QuantSpec) -> dict[str, float]:
    """Return `kv_bytes_per_token` as a cost; none where no policy quantizes keys and values."""
    return {KV_BYTES: kv_bytes(heads, spec)} if heads else {}


def kv_bytes(heads: Heads, spec: QuantSpec) -> float:
    """Return `kv_bytes_per_token`; float counts four bytes per element."""
    return sum(spec.storage_bits(shape) for shape in heads) / 8
