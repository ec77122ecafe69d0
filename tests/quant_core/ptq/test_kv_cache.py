"""Keys and values are quantized row by row where attention reads them: equal to attention that is written out with quantized ones."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import bitfront
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.kv_cache import KvCache
from quant_core.qat.prepare import prepare
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.util.errors import InputError
from spaces.rules import uniform_policy
from tests.quant_core.network.attention_cases import KINDS, Attention, Network, Own, X, rows_quantized

SPEC = parse("int4:token")
MODES = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])


@MODES
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_attention_with_quantized_keys_and_values(kind: str, mode: type[torch.no_grad]) -> None:
    model = Network(kind)
    with mode():
        plain, wanted = model(X), model(X, rows_quantized(SPEC))
        cache = KvCache(model, X)
        cache.apply(SPEC)
        assert torch.equal(model(X), wanted)
        assert not torch.equal(plain, wanted)
        with cache.off():
            assert torch.equal(model(X), plain)
        assert torch.equal(model(X), wanted)
        cache.apply(FLOAT)
        assert torch.equal(model(X), plain)
        assert not model.attention._forward_hooks


@pytest.mark.parametrize("text", ["int8:token", "int3:token:affine", "int4:group4", "int4:group64", "mxfp4"])
def test_every_format_goes_along_a_head(text: str) -> None:
    model, spec = Network("products"), parse(text)
    wanted = model(X, rows_quantized(spec))
    KvCache(model, X).apply(spec)
    assert torch.equal(model(X), wanted)


@MODES
@pytest.mark.parametrize("weights", [False, True])
def test_the_attention_of_torch_reads_quantized_keys_and_values(weights: bool, mode: type[torch.no_grad]) -> None:
    model = Own(weights=weights)
    with mode():
        plain, wanted = model(X), model.by_hand(X, rows_quantized(SPEC))
        KvCache(model, X).apply(SPEC)
        torch.testing.assert_close(model(X), wanted, atol=1e-6, rtol=0)
        assert float((plain - wanted).abs().max()) > 1e-3


def test_the_fast_path_of_an_encoder_is_left() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().requires_grad_(False)
    with torch.inference_mode():
        plain = model(X)
        KvCache(model, X).apply(SPEC)
        assert float((model(X) - plain).abs().max()) > 1e-3


class Nested(nn.Module):
    """Attention in a module, and more of it in the module that holds it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = Attention("fused")
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, cached: object = None) -> Tensor:
        quantize = rows_quantized(SPEC) if cached else lambda x: x
        heads = (self.inner(x, quantize) if cached else self.inner(x)).unflatten(-1, (4, 8)).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(heads, quantize(heads), quantize(heads))
        return (y @ quantize(y).transpose(-1, -2)).softmax(-1) @ quantize(y)


def test_attention_within_attention_is_quantized_once() -> None:
    model = Nested()
    wanted = model(X, True)
    KvCache(model, X).apply(parse("int4:token"))
    assert torch.equal(model(X), wanted)


def test_a_call_that_fails_leaves_nothing_behind() -> None:
    model = Network("products")
    plain = model(X)
    cache = KvCache(model, X)
    cache.apply(SPEC)
    with pytest.raises(RuntimeError):
        model(X[:, :4])  # of rotary embeddings for six tokens
    wanted = model(X)
    assert not torch.equal(plain, wanted)
    cache.apply(FLOAT)
    assert torch.equal(model(X), plain)
    assert not torch.equal(X @ X.transpose(1, 2), torch.zeros(3, 6, 6))


def test_an_engine_applies_the_format_of_the_policy_and_calibrates_without_it() -> None:
    model = Network("fused")
    layers = trace(model, X)
    choice = parse_layer_policy("weight=int4:channel:mse:gptq,activation=int8:tensor")
    policies = [uniform_policy(layers, choice, kv=kv) for kv in (FLOAT, SPEC)]
    engine, other = (PostTraining(model, layers, [X], X) for _ in range(2))
    first = [engine.apply(policy)(X) for policy in policies]
    second = [other.apply(policy)(X) for policy in reversed(policies)]
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(*first)
    alone = engine.apply(Policy({layer.name: parse_layer_policy("weight=float") for layer in layers}, kv=SPEC))
    assert torch.equal(alone(X), model(X, rows_quantized(SPEC)))
    assert torch.equal(engine.restore()(X), model(X))


@pytest.mark.parametrize("reestimate", [False, True])
def test_what_is_measured_while_a_cache_is_quantized_is_measured_in_float(reestimate: bool) -> None:
    model = Network("fused")
    layers = trace(model, X)
    cached = Policy({layer.name: parse_layer_policy("weight=float,activation=int8:tensor") for layer in layers}, kv=parse("int2:token"))
    engine, fresh = (PostTraining(model, layers, [X], X, reestimate=reestimate) for _ in range(2))
    outputs = engine.apply(cached)(X)
    weight = parse("int3:channel:mse:gptq")
    assert torch.equal(engine.encoded("attention.out", weight).codes, fresh.encoded("attention.out", weight).codes)
    assert torch.equal(engine.apply(cached)(X), outputs)


@pytest.mark.filterwarnings("ignore:weights that belong to no quantizable layer")
def test_a_quantized_network_that_stands_alone_keeps_its_cache() -> None:
    model = Network("products")
    layers = trace(model, X)
    alone = bitfront.quantize(model, Policy({layer.name: parse_layer_policy("weight=float") for layer in layers}, kv=SPEC), X)
    wanted = model(X, rows_quantized(SPEC))
    assert torch.equal(alone(X), wanted)
    assert torch.equal(copy.deepcopy(alone)(X), wanted)
    file = io.BytesIO()
    torch.save(alone, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), wanted)


def test_networks_without_attention_and_training_are_refused() -> None:
    model = nn.Sequential(nn.Linear(32, 8)).eval()
    policy = uniform_policy(trace(model, X), parse_layer_policy("weight=int8:channel"), kv=SPEC)
    with pytest.raises(InputError, match="kv = int4:token given, but no attention was seen in the network"):
        PostTraining(model, trace(model, X), [X], X).apply(policy)
    with pytest.raises(InputError, match="has kv = int4:token: keys and values are simulated without training"):
        prepare(model, policy, "ste")
