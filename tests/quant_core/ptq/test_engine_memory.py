"""What the engine keeps, shares, moves and sends, and what it costs when room is short."""

import errno
import re
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from quant_core import Policy, parse, parse_layer_policy
from quant_core.network.moments import second_moments
from quant_core.network.trace import trace
from quant_core.ptq import corrections
from quant_core.ptq import engine as engine_module
from quant_core.ptq.engine import PostTraining
from quant_core.util.spill import SpillFile, SpillWarning
from tests.quant_core.ptq import engine_cases as CASES

WEIGHT4 = "weight=int4:channel:mse"


def test_apply_and_restore_move_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = CASES.branching(), CASES.images()
    engine, install = CASES.engine(model, batches, cache_bytes=0), PostTraining._install
    moved: list[str] = []

    def counted(engine: PostTraining, name: str, quantized: Any) -> None:
        moved.append(name)
        install(engine, name, quantized)

    monkeypatch.setattr(PostTraining, "_install", counted)
    four = CASES.uniform(model, batches, WEIGHT4)
    engine.apply(four)
    assert moved == list(four)
    engine.apply(four)
    assert len(moved) == len(four)
    engine.apply(Policy(dict(four) | {"up": parse_layer_policy("weight=int2:channel")}))
    assert moved[len(four) :] == ["up"]
    engine.restore()
    assert moved[len(four) + 1 :] == list(four)
    engine.restore()
    assert len(moved) == 2 * len(four) + 1


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_the_variance_of_a_layers_float_outputs_is_taken_once(cache_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = CASES.branching(), CASES.images()
    engine, measured = CASES.engine(model, batches, cache_bytes=cache_bytes), list[nn.Module]()
    row_energy = corrections.row_energy

    def counted(module: nn.Module, weight: torch.Tensor, moments: Any) -> torch.Tensor:
        measured.append(module)
        return row_energy(module, weight, moments)

    for place in (corrections, engine_module):
        monkeypatch.setattr(place, "row_energy", counted)
    policies = [CASES.uniform(model, batches, f"weight=int{bits}:channel:mse") for bits in (4, 8, 4, 3)]
    for count, policy in enumerate(policies, 1):
        engine.apply(policy)
        if count == 1:
            first = len(measured)
    layers = first // 2  # of the float weight and of the quantized one
    assert layers > 0
    assert len(measured) == layers * (1 + 3)


@pytest.mark.parametrize("equalize", [False, True])
def test_the_network_is_shared_where_nothing_is_folded_and_never_written_to(equalize: bool) -> None:
    model, batches = CASES.branching(), CASES.images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = PostTraining(model, trace(model, batches[0]), batches, batches[0], equalize=equalize)
    for name in ("shared.weight", "up.bias", "head.weight"):
        assert (engine.model.get_parameter(name).data_ptr() == model.get_parameter(name).data_ptr()) != equalize
    assert engine.model.get_parameter("stem.weight").data_ptr() != model.get_parameter("stem.weight").data_ptr()
    for text in (WEIGHT4, "weight=int3:channel:mse:adaround,activation=int4:tensor"):
        engine.apply(CASES.uniform(model, batches, text))(batches[0])
    engine.restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_that_writes_into_its_weights_is_copied() -> None:
    class Drifting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.weight.mul_(1.0)
            return super().forward(x)

    model, x = nn.Sequential(Drifting(3, 3)).eval(), torch.randn(4, 3)
    engine = PostTraining(model, trace(model, x), [x], x)
    assert engine.model.get_parameter("0.weight").data_ptr() != model.get_parameter("0.weight").data_ptr()


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_a_copy_in_another_process_calibrates_and_encodes_no_more(cache_bytes: int) -> None:
    model, batches = CASES.branching(), CASES.images()
    engine, policy = CASES.engine(model, batches, cache_bytes=cache_bytes), CASES.uniform(model, batches, WEIGHT4)
    expected = engine.apply(policy)(batches[0])
    engine.restore()
    copied = cloudpickle.loads(cloudpickle.dumps(engine))
    assert torch.equal(copied.apply(policy)(batches[0]), expected)
    copied.apply(CASES.uniform(model, batches, "weight=int2:channel"))
    assert copied.calibration_passes == engine.calibration_passes == 2
    assert copied.counts.misses == 2 * len(policy)
    fresh = cloudpickle.loads(cloudpickle.dumps(CASES.engine(model, batches, cache_bytes=cache_bytes)))
    assert torch.equal(fresh.apply(policy)(batches[0]), expected)
    assert fresh.calibration_passes == 2


def test_only_layers_that_can_need_moments_are_measured() -> None:
    model, batches = CASES.branching(), CASES.images()
    layers = trace(model, batches[0])
    choices = {"stem": ["int4:channel"], "shared": ["float"], "up": ["mxfp4"], "head": ["int8:channel", "float"]}
    specs = {name: [parse(text) for text in texts] for name, texts in choices.items()}
    engine = PostTraining(model, layers, batches, batches[0], specs=specs)
    engine.apply(Policy({name: parse_layer_policy(f"weight={texts[0]}") for name, texts in choices.items()}))
    assert [name for moments in engine._covariances for name in moments] == ["stem", "head"]
    assert engine.calibration_passes == 2
    engine.apply(CASES.uniform(model, batches, WEIGHT4))  # beyond what was told
    assert engine.calibration_passes == 3
    without = PostTraining(model, layers, batches, batches[0], specs={name: [parse("mxfp4")] for name in choices})
    without.apply(CASES.uniform(model, batches, "weight=mxfp4"))
    assert without.calibration_passes == 1


def test_moments_on_disk_are_those_in_memory() -> None:
    model, batches = CASES.branching(), CASES.images()
    modules = {name: model.get_submodule(name) for name in ("stem", "shared", "up", "head")}
    file = SpillFile()
    for centered in (False, True):
        held = second_moments(model, modules, batches, centered=centered)
        limit = 4 * 27 * 27  # the first of them fits
        spilled = second_moments(model, modules, batches, centered=centered, limit=limit, file=file)
        assert held.nbytes > limit == spilled.nbytes
        for name in modules:
            one, other = held[name].matrix, spilled[name].matrix
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


@pytest.mark.parametrize("cache_bytes", [0, 2000, 2**16])
def test_what_is_held_stays_within_the_limit(cache_bytes: int) -> None:
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches, cache_bytes=cache_bytes)
    for bits in (2, 3, 4, 8):
        engine.apply(CASES.uniform(model, batches, f"weight=int{bits}:channel:mse"))
        moments = sum(moments.nbytes for moments in engine._covariances)
        assert moments <= cache_bytes / 2
        assert engine.counts.bytes + moments <= cache_bytes
    assert (engine.counts.spilled > 0) == (cache_bytes < 2**16)


def test_a_full_disk_makes_moments_coarser_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10)).eval(), torch.randn(500, 100)
    engine, expected = (PostTraining(model, trace(model, x), [x], x, cache_bytes=limit) for limit in (0, 2**20))
    monkeypatch.setattr("quant_core.util.spill._allocate", full)
    text = r"second moments do not fit the folder .* \(No space left on device\): 128 input patches stand for those of 1 layers"
    with pytest.warns(SpillWarning) as caught:  # and that weights are encoded again
        coarse = engine.apply(CASES.uniform(model, [x], WEIGHT4))(x)
    assert re.search(text, str(caught[0].message))
    assert len(caught) == 2
    torch.testing.assert_close(coarse, expected.apply(CASES.uniform(model, [x], WEIGHT4))(x), rtol=0.1, atol=0.1)
    assert engine.calibration_passes == 2
