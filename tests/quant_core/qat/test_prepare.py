"""`prepare` and `finalize` on whole networks: every method and format, shared and tied layers, stored weights, and refusals."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core import InputError, LayerPolicy, Policy, parse_layer_policy
from quant_core.codecs.packing import pack, unpack
from quant_core.network.forward import forward
from quant_core.network.trace import quantizable, trace
from quant_core.ptq.engine import PostTraining
from quant_core.qat import QAT_METHODS
from quant_core.qat.prepare import constrain, finalize, float_weights, input_quantizers, original, prepare, quantized_weights
from tests.quant_core.qat.prepare_cases import Branching, Tokens, built, example, prepared, take_steps

ROOT = Path(__file__).parents[3]


def test_constrain_reaches_what_is_learned_of_weights_and_inputs() -> None:
    model = prepared(built(Branching), "weight=int4:channel,activation=int4:tensor", "lsq")
    steps = {name: step for name, step in model.named_parameters() if name.endswith("step")}
    before = {name: step.detach().clone() for name, step in steps.items()}
    for step in steps.values():
        step.data.neg_()
    constrain(model)
    assert len({name.rpartition(".")[0].rpartition(".")[2] for name in steps}) == 2, "of weights ('0') and of inputs"
    for name, step in steps.items():
        torch.testing.assert_close(step.detach(), before[name] / 2)


CASES = [
    ("ste", "weight=int4:channel:mse,activation=int4:tensor:ema"),
    ("ste", "weight=int8:tensor:affine,activation=int8:tensor:affine"),
    ("ste", "weight=int4:channel:stochastic,activation=int8:tensor:dynamic"),
    ("ste", "weight=int4:vector16,activation=int8:token"),
    ("ste", "weight=mx6,activation=mx9"),
    ("ste", "weight=nvfp4,activation=mxfp8"),
    ("ste", "weight=ternary:twn:channel,activation=int8:tensor"),
    ("ste", "weight=kmeans3:tensor"),
    ("lsq", "weight=int4:channel,activation=int4:tensor"),
    ("lsq", "weight=int2:tensor,activation=int8:tensor:affine"),
    ("lsq", "weight=int4:group4,activation=float"),
    ("pact", "weight=int3:channel:octav,activation=int3:tensor"),
    ("dorefa", "weight=int2:channel,activation=int4:tensor"),
    ("dorefa", "weight=int1:tensor"),
    ("mad", "weight=int2:channel:octav,activation=int4:tensor"),
    ("ttq", "weight=ternary:ttq,activation=int8:tensor"),
    ("ttq", "weight=ternary:ttq:channel"),
    ("binary", "weight=binary:channel,activation=int8:tensor"),
    ("binary", "weight=binary:channel:stochastic,activation=binary:tensor"),
    ("codebook", "weight=kmeans2:tensor,activation=int8:tensor"),
    ("codebook", "weight=kmeans3:channel"),
]


def test_every_method_has_a_case() -> None:
    assert {method for method, _ in CASES} == set(QAT_METHODS)


@pytest.mark.parametrize("make", [Branching, Tokens])
@pytest.mark.parametrize(("method", "text"), CASES)
def test_finalized_networks_give_the_same_outputs_and_pack_exactly(method: str, text: str, make: Callable[[], nn.Module]) -> None:
    if method == "pact" and make is Tokens:
        pytest.skip("its inputs are negative: pact covers none of them")
    model = prepared(built(make), text, method)
    before = {name: weight.clone() for name, weight in float_weights(model).items()}
    take_steps(model)
    moved = [name for name, weight in float_weights(model).items() if not torch.equal(weight, before[name])]
    assert moved
    final = finalize(model)
    with torch.no_grad():
        assert torch.equal(forward(final, example(final)), forward(model.eval(), example(model)))
    stored = quantized_weights(model)
    assert set(stored) == set(quantizable(final))
    for name, weight in stored.items():
        assert torch.equal(final.get_submodule(name).get_parameter("weight"), weight.tensor)
        data = pack(weight.source, weight.spec, channel_axis=weight.channel_axis, bounds=weight.bounds)
        assert torch.equal(unpack(data, weight.spec, tuple(weight.tensor.shape), channel_axis=weight.channel_axis), weight.tensor), name
    assert not any(isinstance(module, nn.utils.parametrize.ParametrizationList) for module in final.modules())
    take_steps(model, 1)  # the prepared network is whole: finalizing took nothing from it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "text"), [("lsq", "weight=int3:channel,activation=int4:tensor"), ("ttq", "weight=ternary:ttq,activation=int8:tensor:ema")]
)
def test_packed_weights_give_the_same_outputs_in_a_fresh_process(method: str, text: str, tmp_path: Path) -> None:
    model = prepared(built(Branching), text, method)
    take_steps(model)
    final = finalize(model)
    entries = {}
    for name, weight in quantized_weights(model).items():
        data = pack(weight.source, weight.spec, channel_axis=weight.channel_axis, bounds=weight.bounds)
        (tmp_path / name).write_bytes(data)
        entries[name] = (str(weight.spec), tuple(weight.tensor.shape), weight.channel_axis)
    others = {key: value for key, value in final.state_dict().items() if key.removesuffix(".weight") not in entries}
    with torch.no_grad():
        torch.save((entries, others, final(example(final))), tmp_path / "rest")
    code = f"""
import sys, torch
sys.path.insert(0, {str(ROOT)!r})
from quant_core.codecs.packing import unpack
from quant_core.qat.prepare import finalize
from tests.quant_core.qat import prepare_cases as t
from pathlib import Path
folder = Path({str(tmp_path)!r})
entries, others, expected = torch.load(folder / "rest", weights_only=True)
weights = {{f"{{n}}.weight": unpack((folder / n).read_bytes(), s, tuple(h), channel_axis=a) for n, (s, h, a) in entries.items()}}
model = finalize(t.prepared(t.built(t.Branching), {text!r}, {method!r}))
model.load_state_dict(others | weights)
sys.exit(0 if torch.equal(model(t.example(model)), expected) else 1)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_preparing_leaves_the_model_alone_and_keeps_its_parameters() -> None:
    model = built(Branching)
    state, kinds = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    qat = prepared(model, "weight=int4:channel,activation=int4:tensor")
    take_steps(qat)
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items() if "norm" not in key)
    assert set(float_weights(qat)) == set(state)
    masters = dict(qat.named_parameters())
    assert all(masters[f"{name}.parametrizations.weight.original"].grad is not None for name in quantizable(qat))


def test_an_untrained_network_is_the_post_training_one() -> None:
    model = built(Branching)
    model.norm = nn.Identity()
    inputs, text = example(model), "weight=int4:channel:mse,activation=int4:tensor:mse"
    layers = trace(model, inputs)
    engine = PostTraining(model, layers, [inputs], inputs, bias_correction=False, scale_correction=False)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    with torch.no_grad():
        expected = engine.apply(policy)(inputs)
        assert torch.equal(prepared(model, text).eval()(inputs), expected)


def test_tied_weights_stay_tied_with_one_quantizer() -> None:
    qat = prepared(built(Tokens), "weight=int3:channel,activation=int8:tensor", "lsq")
    assert original(qat.get_submodule("embedding")) is original(qat.get_submodule("out"))
    assert len([name for name, _ in qat.named_parameters() if name.endswith("step") and "parametrizations" in name]) == 2
    take_steps(qat)
    final = finalize(qat)
    assert final.get_submodule("embedding").weight is final.get_submodule("out").weight
    assert set(input_quantizers(qat)) == {"middle", "out"}


def test_tied_weights_of_different_specs_are_refused() -> None:
    model = built(Tokens)
    policy = Policy(
        {"embedding": parse_layer_policy("weight=int4:channel"), "middle": LayerPolicy(), "out": parse_layer_policy("weight=int8:channel")}
    )
    with pytest.raises(InputError, match="'embedding' and 'out' share one weight; int4:channel and int8:channel given"):
        prepare(model, policy, "ste")


def test_float_layers_stay_plain() -> None:
    model = built(Branching)
    policy = Policy({name: parse_layer_policy("weight=int4:channel" if name == "stem" else "weight=float") for name in quantizable(model)})
    qat = prepare(model, policy, "lsq")
    assert set(quantized_weights(qat)) == {"stem"}
    assert not input_quantizers(qat)


def test_training_may_start_from_the_weights_of_another_policy() -> None:
    model = built(Branching)
    qat = prepared(model, "weight=int2:channel,activation=int4:tensor", "lsq")
    take_steps(qat)
    model.load_state_dict(float_weights(qat))
    assert torch.equal(model.get_submodule("head").get_parameter("weight"), original(qat.get_submodule("head")))


@pytest.mark.parametrize(
    ("policy", "method", "message"),
    [
        ({"stem": "weight=int4:channel"}, "ste", "'shared' is not in the policy"),
        ({"stem": "", "shared": "", "up": "", "head": "", "tail": ""}, "ste", "'tail' is not in the network"),
        ({"stem": "", "shared": "", "up": "", "head": "weight=int4:channel"}, "ttq", "covers nothing of this policy; train it by 'ste'"),
        (
            {"stem": "activation=int4:tensor", "shared": "", "up": "", "head": ""},
            "ste",
            "layer 'stem': activation int4:tensor: it is static",
        ),
        ({"stem": "activation=int4:channel", "shared": "", "up": "", "head": ""}, "ste", "layer 'stem': .* one range per channel"),
        ({"stem": "", "shared": "", "up": "", "head": ""}, "stee", "unknown QAT method 'stee'; known: .*Did you mean 'ste'"),
        ({"stem": "", "shared": "", "up": "", "head": ""}, "math:pi", "is a float; a quant_core.qat.method.Method is needed"),
    ],
)
def test_policies_and_methods_that_do_not_fit_are_refused(policy: dict[str, str], method: str, message: str) -> None:
    layers = {name: parse_layer_policy(text) if text else LayerPolicy() for name, text in policy.items()}
    with pytest.raises(InputError, match=message):
        prepare(built(Branching), Policy(layers), method)


def test_a_layer_parametrized_already_is_refused() -> None:
    model = built(Branching)
    nn.utils.parametrizations.weight_norm(model.get_submodule("head"))
    policy = Policy(dict.fromkeys(quantizable(model), parse_layer_policy("weight=int4:channel")))
    with pytest.raises(InputError, match="layer 'head' is parametrized already"):
        prepare(model, policy, "ste")
