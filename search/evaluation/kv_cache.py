"""What a KV cache takes, in the figures of an evaluation."""

from quant_core.ptq.engine import PostTraining
from quant_core.spec.kv_cache import KV_BYTES, kv_bytes
from quant_core.spec.policy import Policy
from quant_core.spec.quant_spec import FLOAT


def kv_figures(engine: PostTraining, policy: Policy) -> dict[str, float]:
    """Return `kv_bytes_per_token` of a policy and of float, where keys and values are quantized."""
    if policy.kv.is_float:
        return {}
    heads = engine.kv_cache.heads
    return {KV_BYTES: kv_bytes(heads, policy.kv), f"float_{KV_BYTES}": kv_bytes(heads, FLOAT)}
