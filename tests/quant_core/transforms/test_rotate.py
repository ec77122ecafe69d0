import pytest
import torch
from torch import nn

from quant_core.network.faithful import difference
from quant_core.network.forward import forward
from quant_core.transforms.online import LEFT
from quant_core.transforms.rotate import Rotated, rotate
from tests.quant_core.transforms.networks import inputs_of, plain, transformer

KINDS = {  # kind -> residual streams, attentions whose values are rotated
    "llama": (1, 2),
    "qwen3": (1, 2),
    "phi3": (1, 2),
    "neox": (1, 2),
    "opt": (1, 2),
    "gpt2": (1, 2),
    "vit": (1, 2),
    "t5": (1, 6),
    "bert": (0, 2),
    "mixtral": (0, 2),
}


def rotated(model: nn.Module, inputs: object) -> Rotated:
    """Return the rotated network; its outputs are those of the original, which is not touched."""
    with torch.no_grad():
        expected = forward(model, inputs)
        result = rotate(model, inputs)
        assert difference(forward(result.model, inputs), expected) < 1e-4
        assert torch.equal(forward(model, inputs), expected)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_stay_whatever_the_architecture(kind: str) -> None:
    pytest.importorskip("transformers")
    result = rotated(transformer(kind), inputs_of(kind))
    assert (len(result.streams), len(result.heads)) == KINDS[kind]
    assert bool(result.refused) == (not result.streams)


def test_all_that_reads_or_writes_a_llamas_stream_is_rotated() -> None:
    pytest.importorskip("transformers")
    result = rotated(transformer("llama", attn_implementation="eager"), inputs_of("llama"))
    ((writers, readers),) = result.streams
    assert {name.rpartition(".")[2] for name in writers} == {"embed_tokens", "o_proj", "down_proj"}
    assert {name.rpartition(".")[2] for name in readers} == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"}
    assert [(a[0].rpartition(".")[2], b[0].rpartition(".")[2]) for a, b in result.heads] == [("v_proj", "o_proj")] * 2
    assert {name.rpartition(".")[2] for name in result.online} == {"down_proj"}
    assert len(result.folded) == 5


def test_a_tied_head_is_untied() -> None:
    pytest.importorskip("transformers")
    model = transformer("llama", tie_word_embeddings=True)
    result = rotated(model, inputs_of("llama"))
    weights = [module.get_submodule("lm_head").get_parameter("weight") for module in (model, result.model)]
    tables = [module.get_submodule("model.embed_tokens").get_parameter("weight") for module in (model, result.model)]
    assert weights[0] is tables[0]
    assert weights[1].data_ptr() != tables[1].data_ptr()


def test_norms_after_the_addition_refuse_the_residual_stream_by_name() -> None:
    pytest.importorskip("transformers")
    result = rotated(transformer("bert"), inputs_of("bert"))
    assert "LayerNorm does not keep the map" in result.refused
    assert not result.folded


def test_a_network_of_torch_alone_with_fused_attention_and_a_write_in_place() -> None:
    result = rotated(plain(), torch.randn(4, 64))
    ((writers, readers),) = result.streams
    assert "position" in writers
    assert "head" in readers  # behind the mean over tokens
    assert [a for a, _ in result.heads] == [("blocks.0.qkv",), ("blocks.1.qkv",)]


def test_outliers_of_the_stream_are_spread() -> None:
    model, x = plain(32), torch.randn(64, 64)
    result = rotated(model, x)
    seen: dict[str, torch.Tensor] = {}
    for key, network in (("plain", model), ("rotated", result.model)):
        network.get_submodule("blocks.1.qkv").register_forward_pre_hook(lambda _m, args, key=key: seen.update({key: args[0]}))
        with torch.no_grad():
            network(x)
    crest = {key: float((value.abs().amax(dim=-1) / value.square().mean(dim=-1).sqrt()).mean()) for key, value in seen.items()}
    assert crest["rotated"] < 0.75 * crest["plain"]


def test_a_layer_that_is_read_unmapped_elsewhere_is_left() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.shared = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.shared(self.norm(self.first(x))) + self.shared(x)
            return y

    torch.manual_seed(0)
    result = rotated(Twice().eval(), torch.randn(4, 32))
    assert not result.streams
    assert not result.folded


def test_layers_that_are_never_called_keep_their_input() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=True), 1, enable_nested_tensor=False)
    result = rotated(encoder.eval(), torch.randn(2, 5, 32))
    assert LEFT not in result.model.get_submodule("layers.0.self_attn.out_proj")._buffers
