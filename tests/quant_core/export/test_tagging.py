"""Networks of every make as ONNX graphs: they agree with the simulation at any batch size, or one sentence refuses them."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from quant_core.export.graph import quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, post_training
from quant_core.export.tagging import WEIGHT, input_names, tensor_leaves, traced
from quant_core.network.forward import forward
from quant_core.network.outputs import with_output
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError

BOTH, WEIGHTS = "weight=int7:channel,activation=int8:tensor", "weight=int8:channel"  # 8 bits overflow in kernels without VNNI
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 32}
DECODER = SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
GPT = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 1}
X = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(32, (8, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 4, 9, 9, generator=torch.Generator().manual_seed(0))
MASKED = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.attention(x, x, x)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.first, self.positions = nn.Linear(6, 8), nn.Embedding(20, 8)
        self.encoder, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encoder(self.first(x) + self.positions(torch.arange(x.shape[1]))).mean(1))


class Grouped(nn.Module):
    """Grouped queries by keywords, without the help of a library."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.last = nn.Linear(6, 24), nn.Linear(6, 16), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, (k, v) = self.q(x).unflatten(-1, (6, 4)).transpose(1, 2), self.kv(x).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, key=k, value=v, is_causal=True, enable_gqa=True)
        return self.last(y.transpose(1, 2).flatten(2))


class Typed(nn.Module):
    """Layers in another type than float32 between float32 ends."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers, self.dtype = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(self.dtype)).float()


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layers(x)


class Keywords(nn.Module):
    """Keywords that are tensors, None, numbers or flags."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float | Tensor = 1.0, flag: bool = True) -> Tensor:
        x = torch.relu(self.first(x)) * scale
        return self.last(x if mask is None else x * mask) * (1 if flag else -1)


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(32, 8, mode=mode), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.bag(tokens))


def hugging(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**options))


def sequential(dtype: torch.dtype) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def convolution(kind: Any = nn.Conv2d, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(kind(4, 6, padding="same", **options))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "attention": (Attention, X),
    "encoder": (Encoder, X),
    "grouped queries": (Grouped, X),
    "GPT-2": (hugging("GPT2LMHeadModel", "GPT2Config", **GPT), IDS),
    "GPT-2 with a mask": (hugging("GPT2LMHeadModel", "GPT2Config", **GPT), MASKED),
    "Llama": (hugging("LlamaForCausalLM", "LlamaConfig", **DECODER), IDS),
    "Llama with a mask": (hugging("LlamaForCausalLM", "LlamaConfig", **DECODER), MASKED),
    "tied Llama": (hugging("LlamaForCausalLM", "LlamaConfig", tie_word_embeddings=True, **DECODER), IDS),
    "Bert": (hugging("BertForSequenceClassification", "BertConfig", max_position_embeddings=16, **SIZES), MASKED),
    "float16 within": (lambda: Typed(torch.float16), X),
    "float64 within": (lambda: Typed(torch.float64), X),
    "float16": (sequential(torch.float16), X.half()),
    "float64": (sequential(torch.float64), X.double()),
    "None by keyword": (Keywords, {"x": X, "mask": None}),
    "number by keyword": (Keywords, {"x": X, "scale": 2.5, "flag": False}),
    "scalar tensor by keyword": (Keywords, {"x": X, "scale": torch.tensor(0.5)}),
    "None and number by position": (Keywords, (X, None, 2.0)),
    "another order": (Keywords, {"mask": torch.rand(8, 5, 8), "flag": True, "x": X}),
    "bag of means": (lambda: Bag("mean"), IDS),
    "bag of sums": (lambda: Bag("sum"), IDS),
    "bag of maxima": (lambda: Bag("max"), IDS),
    "same, dilated": (convolution(kernel_size=2, dilation=3), IMAGES),
    "same, even and odd": (convolution(kernel_size=(4, 3), dilation=(1, 2)), IMAGES),
    "same, one axis": (convolution(nn.Conv1d, kernel_size=4, dilation=3), IMAGES[..., 0]),
}
REFUSED = {
    "bfloat16 within": (lambda: Typed(torch.bfloat16), X),
    "bfloat16": (sequential(torch.bfloat16), X.bfloat16()),
    "autocast": (Autocast, X),
    "Llama in bfloat16": (lambda: NETWORKS["Llama"][0]().bfloat16(), IDS),
}


def quantized(make: Callable[[], nn.Module], example: Any, text: str) -> Quantized:
    """Return a network under one policy for all layers, inputs of embeddings excepted."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights left in float, of padding, of first imports
        torch.manual_seed(0)
        model = make().eval()
        layers = trace(model, example)
        policy = Policy({layer.name: parse_layer_policy(WEIGHTS if layer.kind == "embedding" else text) for layer in layers})
        return post_training(PostTraining(model, layers, [example], example), model, layers, policy, example)


def cut(batch: Any, count: int) -> Any:
    return tree_map(lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() else leaf, batch)


@pytest.mark.parametrize("text", [BOTH, WEIGHTS])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_agrees_with_the_simulation_at_any_batch_size(name: str, text: str) -> None:
    make, example = NETWORKS[name]
    network = quantized(make, example, text)
    fast = torch.backends.mha.get_fastpath_enabled()
    data = quantized_graph(network).model.SerializeToString()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    for fuse, tolerance in ((False, 0.005), (True, 0.02)):
        session = Session(data, input_names(example), fuse=fuse)
        for count in (8, 3, 1):
            batch = cut(example, count)
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = forward(network.simulation, batch).double()
            outputs = session(batch).double()
            assert outputs.shape == wanted.shape
            assert float((outputs - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize("text", [BOTH, WEIGHTS])
@pytest.mark.parametrize("name", REFUSED)
def test_bfloat16_is_refused_in_one_sentence(name: str, text: str) -> None:
    network = quantized(*REFUSED[name], text)
    with pytest.raises(InputError, match=r"^ONNX cannot represent this network: it computes in bfloat16 \(.*in float32, as [^\n]*\.$"):
        quantized_graph(network)


def test_the_fast_path_of_attention_comes_back_where_the_export_fails() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0e(self.layer(x))

    network = quantized(Strange, X, BOTH)
    with pytest.raises(InputError, match="ONNX cannot represent this network: "):
        quantized_graph(network)
    assert torch.backends.mha.get_fastpath_enabled()


def test_whatever_an_operators_mapping_raises_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise AssertionError

    network = quantized(*NETWORKS["float64"], BOTH)
    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(InputError, match=r"ONNX cannot represent this network: AssertionError\. Use safetensors"):
        quantized_graph(network)


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (X, ["input"]),
        ((X, None, 2.0), ["input"]),
        ((X, IDS), ["input0", "input1"]),
        ({"x": X, "mask": None, "scale": 2.0}, ["x"]),
        ({"mask": IDS, "flag": True, "x": X}, ["mask", "x"]),
        ({"x": X, "more": [IDS, None]}, ["input0", "input1"]),
    ],
)
def test_inputs_are_the_tensors_of_a_batch(batch: Any, names: list[str]) -> None:
    assert input_names(batch) == names
    assert len(tensor_leaves(batch)) == len(names)


class Twice(nn.Module):
    """A convolution that is called twice, and a head that shares its memory with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(self.embed(tokens))))


def test_a_traced_graph_holds_one_number_for_a_quantized_weight_and_all_of_a_float_one() -> None:
    model, tokens = Twice().eval(), torch.randint(30, (2, 3))
    layers = trace(model, tokens)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    for quantized in (layers, layers[:1], ()):
        graph = traced(model, tokens, quantized, layers[1:2]).graph
        held = sum(int(torch.tensor(constant.dims).prod()) for constant in graph.initializer if len(constant.dims) != 1)
        names = {layer.name for layer in quantized}
        left = [layer for layer in layers if layer.name not in names]
        assert held <= sum(layer.weights for layer in left)
        tags = [node for node in graph.node if node.op_type == WEIGHT]
        assert {node.attribute[0].s.decode() for node in tags} == names
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]


class Boxes(nn.Module):
    """Scores and boxes, of a head each."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.boxes = nn.Linear(6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.scores(x), "boxes": self.boxes(x).exp()}


def test_a_graph_of_a_named_output_holds_the_others_too() -> None:
    model, inputs = with_output(Boxes().eval(), "boxes"), torch.randn(5, 6)
    layers = trace(model, inputs)
    policy = Policy({layer.name: parse_layer_policy("weight=int8:channel,activation=int8:tensor") for layer in layers})
    network = post_training(PostTraining(model, layers, [inputs], inputs), model, layers, policy, inputs)
    graph = quantized_graph(network).model
    assert [output.name for output in graph.graph.output] == ["output", "output1"]
    assert {tensor.name for tensor in graph.graph.initializer} >= {"scores.weight.codes", "boxes.weight.codes"}
    with torch.no_grad():
        torch.testing.assert_close(Session(graph.SerializeToString(), ["input"], fuse=False)(inputs), forward(network.simulation, inputs))
