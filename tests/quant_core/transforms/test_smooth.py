import pytest
import torch

from quant_core.network.faithful import difference
from quant_core.network.forward import forward
from quant_core.transforms.smooth import smooth
from tests.quant_core.transforms.networks import inputs_of, plain, transformer


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "opt", "bert", "vit", "t5", "mixtral"])
def test_outputs_stay_and_every_scale_lowers_the_error(kind: str) -> None:
    pytest.importorskip("transformers")
    model, inputs = transformer(kind), inputs_of(kind)
    with torch.no_grad():
        expected = forward(model, inputs)
        result = smooth(model, [inputs])
        assert difference(forward(result.model, inputs), expected) < 1e-4
        assert torch.equal(forward(model, inputs), expected)
    assert any(group.alpha is not None for group in result.groups)
    assert all(group.error < 1.0 for group in result.groups if group.alpha is not None)


def test_a_group_is_a_norm_or_a_layer_and_all_that_read_it() -> None:
    pytest.importorskip("transformers")
    groups = {group.source: group.readers for group in smooth(transformer("llama"), [inputs_of("llama")]).groups}
    assert [name.rpartition(".")[2] for name in groups["model.layers.0.input_layernorm"]] == ["q_proj", "k_proj", "v_proj"]
    assert [name.rpartition(".")[2] for name in groups["model.layers.1.mlp.up_proj"]] == ["down_proj"]
    assert groups["model.norm"] == ("lm_head",)


def test_a_tied_head_keeps_its_weight() -> None:
    pytest.importorskip("transformers")
    model = smooth(transformer("llama", tie_word_embeddings=True), [inputs_of("llama")]).model
    head, table = (model.get_submodule(name).get_parameter("weight") for name in ("lm_head", "model.embed_tokens"))
    assert head.data_ptr() == table.data_ptr()


def test_layers_are_scaled_through_relu_only() -> None:
    x = torch.randn(8, 64)
    assert "blocks.0.up" in {group.source for group in smooth(plain(relu=True), [x]).groups}
    assert "blocks.0.up" not in {group.source for group in smooth(plain(), [x]).groups}


def test_as_many_batches_are_read_as_hold_the_rows() -> None:
    model, calls = plain(), []
    model.register_forward_pre_hook(lambda _module, args: calls.append(len(args[0])))
    smooth(model, [torch.randn(512, 64)] * 3)
    assert sum(count == 512 for count in calls) == 1
