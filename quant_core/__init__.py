"""Everything that touches a tensor. This package root exports only the nouns, and is free of torch."""

from quant_core.errors import BitfrontError, InputError
from quant_core.layer import Layer
from quant_core.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.spec import FLOAT, QuantSpec, SpecError, parse

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
