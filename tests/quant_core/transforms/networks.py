"""Small networks for the tests of transforms: transformers' own classes of random weights, and plain ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IDS = torch.randint(0, 90, (3, 11), generator=torch.Generator().manual_seed(0))


def shaken(model: nn.Module) -> nn.Module:
    """Return the network in eval mode with gains, biases and outlying channels of its norms drawn at random."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.data = noise + (1.0 if name.endswith("weight") else 0.0)
            if name.endswith("weight"):
                parameter.data[3] *= 12.0
    return model.eval()


def transformer(kind: str, **config: Any) -> nn.Module:
    """Return a network of transformers' class `kind` of two layers, shaken."""
    import transformers

    small = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    by_kind: dict[str, tuple[str, str, dict[str, Any]]] = {
        "llama": ("LlamaForCausalLM", "LlamaConfig", small | {"num_key_value_heads": 2}),
        "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", small | {"num_key_value_heads": 2, "head_dim": 16}),
        "phi3": ("Phi3ForCausalLM", "Phi3Config", small | {"num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1}),
        "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", small),
        "opt": ("OPTForCausalLM", "OPTConfig", {**small, "ffn_dim": 48, "word_embed_proj_dim": 32}),
        "mixtral": ("MixtralForCausalLM", "MixtralConfig", small | {"num_key_value_heads": 2, "num_local_experts": 4}),
        "bert": ("BertForSequenceClassification", "BertConfig", small),
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}),
        "vit": ("ViTForImageClassification", "ViTConfig", small | {"image_size": 16, "patch_size": 4}),
        "t5": ("T5ForConditionalGeneration", "T5Config", {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}),
    }
    model, settings, fields = by_kind[kind]
    if kind == "t5":
        fields = fields | {"num_heads": 4, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    return shaken(getattr(transformers, model)(getattr(transformers, settings)(**(fields | config))))


def inputs_of(kind: str) -> Any:
    """Return a batch of inputs for a network of `transformer`."""
    if kind == "vit":
        return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return {"input_ids": IDS, "decoder_input_ids": IDS} if kind == "t5" else IDS


class Block(nn.Module):
    """A pre-norm block of attention with fused queries, keys and values, and a feed-forward part."""

    def __init__(self, width: int, *, relu: bool) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.relu = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), relu

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))
        hidden = self.up(self.after(x))
        y: Tensor = self.down(hidden.relu() if self.relu else F.gelu(hidden))
        y += x
        return y


class Plain(nn.Module):
    """A transformer without transformers: patches, learned positions, two blocks, a head on the mean token. [N, 64] -> [N, 10]."""

    def __init__(self, width: int = 24, *, relu: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.position = nn.Linear(8, width), nn.Parameter(torch.randn(8, width))
        self.blocks = nn.Sequential(Block(width, relu=relu), Block(width, relu=relu))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x.reshape(-1, 8, 8)) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def plain(width: int = 24, *, relu: bool = False) -> nn.Module:
    """Return a `Plain`, shaken."""
    return shaken(Plain(width, relu=relu))
