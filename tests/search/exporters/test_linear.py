"""Layer names of transformers models that a task wraps."""

import pytest
import torch
from torch import nn

from search.exporters.linear import public_names


def test_names_are_those_of_the_transformers_model() -> None:
    transformers = pytest.importorskip("transformers")
    from quant_core.network.trace import trace

    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=8
    )

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.LlamaForCausalLM(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=x, use_cache=False).logits

    layers = trace(Wrapped().eval(), torch.zeros(1, 4, dtype=torch.long))
    names = public_names(Wrapped(), layers)
    assert names["model.model.layers.0.self_attn.q_proj"] == "model.layers.0.self_attn.q_proj"
    assert public_names(nn.Sequential(nn.Linear(2, 2)), layers)["model.lm_head"] == "model.lm_head"
