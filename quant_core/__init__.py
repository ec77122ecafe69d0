"""Everything that touches a tensor. This package root exports only the nouns, and is free of torch."""

from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.spec.quant_spec import FLOAT, QuantSpec, SpecError, parse
from quant_core.util.errors import BitfrontError, InputError

__all__ = [
    "FLOAT",
    "BitfrontError",
    "InputError",
    "Layer",
    "LayerPolicy",
    "Policy",
    "QuantSpec",
    "SpecError",
    "parse",
    "parse_layer_policy",
]
