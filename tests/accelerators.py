"""Everything that touches tensors, on every accelerator that torch can use here, and always on `twin` (`tests/second_device.py`).

`pytest -m gpu` runs the real ones alone. `twin` computes what the CPU does, so that it finds every mix of devices, but no rounding.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.clipping import ranges
from quant_core.codecs.quantize import decode, encode, fake_quantize
from quant_core.export.standalone import standalone
from quant_core.network.reference import reference_network
from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.spec.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.spec.quant_spec import parse
from quant_core.util.devices import available, device_named, placed
from search.config.evaluation import EvaluateSection
from search.config.files import load
from search.evaluation.evaluator import Evaluator
from search.evaluation.sensitivity import Sensitivity
from search.evaluation.training import trained
from search.exporters.flow import export
from search.sweeps.run import start
from search.tasks.task import Task
from spaces import rules
from tests import second_device
from tests.search.own_task import tiny

ROOT = Path(__file__).parent.parent
REAL = [name for name in available() if name != "cpu" and not name.startswith(second_device.NAME)]
NO_GPU = pytest.mark.skipif(not REAL, reason="torch sees no accelerator here: tests on `twin` stand for it")
FORMATS = (
    *("int4:tensor", "int4:channel", "int8:channel:affine", "int4:channel:octav"),
    pytest.param("int4:channel:mse:affine", marks=pytest.mark.slow),
    *("int8:channel:kl", "int4:channel:percentile", "int4:vector16", "int4:vector16:tensor", "int8:group32:mse:e8m0"),
    *("mx4", "mx6", "mx9", "mxfp4", "mxfp6e2m3", "mxfp8e4m3", "mxint8", "nvfp4", "binary:channel", "binary:tensor"),
    *("ternary:twn", "ternary:ttq:channel", "kmeans4:tensor", "kmeans2:channel", "int4:channel:stochastic", "int8:token"),
)
POLICIES = (
    *("weight=int4:channel:mse,activation=int8:tensor:ema", "weight=int4:group8:octav,activation=int8:token"),
    *(
        "weight=mx6,activation=mx6",
        "weight=int3:channel:adaround,activation=int4:tensor:mse:dynamic",
        "weight=kmeans4:tensor,activation=float",
    ),
    *("weight=nvfp4,activation=int8:tensor:kl", "weight=ternary:twn,activation=int8:tensor:octav"),
)
TRAINED = {
    "ste": "weight=int4:channel:mse,activation=int8:tensor:ema",
    "lsq": "weight=int4:channel,activation=int4:tensor",
    "pact": "weight=int4:channel,activation=int4:tensor",
    "dorefa": "weight=int4:channel,activation=int4:tensor",
    "ttq": "weight=ternary:ttq:channel,activation=int8:tensor:ema",
    "binary": "weight=binary:channel,activation=int8:tensor:ema",
    "codebook": "weight=kmeans4:tensor,activation=int8:tensor:ema",
}


@pytest.fixture(params=[second_device.NAME, pytest.param("real", marks=[pytest.mark.gpu, NO_GPU])], scope="module")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device under test."""
    return second_device.install() if request.param == second_device.NAME else device_named(REAL[0])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let torch warn of what a device does not do by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Network(nn.Module):
    """An embedding, two convolutions (one with a batch norm to fold), attention's products, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8, max_norm=2.0)
        self.lift = nn.Conv1d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm1d(12)
        self.mix = nn.ConvTranspose1d(12, 8, 2, stride=2, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [N, 5] of tokens [N, T]."""
        x = torch.relu(self.norm(self.lift(self.table(tokens).transpose(1, 2))))
        x = self.mix(x).transpose(1, 2)
        x = (x @ x.transpose(1, 2)).softmax(dim=-1) @ x
        output: Tensor = self.head(x.mean(dim=1))
        return output


@pytest.fixture(scope="module")
def task() -> Task:
    """Return a task whose network and data are on the CPU."""
    torch.manual_seed(0)
    model = Network().train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randint(0, 10, (16, 6)))
    batches = [(torch.randint(0, 10, (16, 6)), torch.randint(0, 5, (16,))) for _ in range(3)]
    return Task(model.eval(), batches, batches[:2], batches, batches)


@pytest.fixture(scope="module")
def evaluators(task: Task, device: torch.device) -> tuple[Evaluator, Evaluator]:
    """Return the evaluator on the CPU and that on the device."""
    layers, section = trace(task.model, task.calib[0][0]), EvaluateSection()  # type: ignore[index]
    return Evaluator(task, layers, section), Evaluator(task, layers, section, device=device)


def uniform(task: Task, text: str) -> Policy:
    """Return the same for every layer; what an embedding cannot have is float."""
    wanted = parse_layer_policy(text)
    layers = trace(task.model, task.calib[0][0])  # type: ignore[index]
    return Policy({layer.name: LayerPolicy(wanted.weight) if layer.kind == "embedding" else wanted for layer in layers})


@pytest.mark.parametrize("text", FORMATS)
def test_formats_are_those_of_the_cpu(text: str, device: torch.device) -> None:
    x, spec = torch.randn(12, 70, generator=torch.Generator().manual_seed(0)), parse(text)
    here, there = (fake_quantize(y, spec, generator=torch.Generator().manual_seed(1)) for y in (x, x.to(device)))
    assert there.device == device
    assert torch.allclose(here, there.cpu(), rtol=1e-5, atol=1e-7)
    encoded = encode(x.to(device), spec, generator=torch.Generator().manual_seed(1))
    assert torch.equal(decode(encoded, spec, (12, 70)).cpu(), there.cpu())


@pytest.mark.parametrize("method", ["minmax", "mse", "octav", "kl", "percentile"])
def test_searches_stay_on_the_device(method: str, device: torch.device) -> None:
    x = torch.randn(6, 128, generator=torch.Generator().manual_seed(0)).to(device)
    second_device.copies.clear()
    low, high = ranges(x, parse(f"int4:channel:{method}"))
    assert low.device == high.device == device
    if method != "kl":
        assert not second_device.copies["elements"], "no tensor went to the CPU"


@pytest.mark.parametrize("text", POLICIES)
def test_policies_measure_as_on_the_cpu(text: str, task: Task, evaluators: tuple[Evaluator, Evaluator]) -> None:
    here, there = (evaluator.metrics(uniform(task, text), "valid") for evaluator in evaluators)
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-3)
    assert abs(there["accuracy"] - here["accuracy"]) <= 1 / 48


def test_nothing_but_figures_comes_back_in_a_trial(task: Task, evaluators: tuple[Evaluator, Evaluator], device: torch.device) -> None:
    if device.type != second_device.NAME:
        pytest.skip("copies are counted on twin")
    _, there = evaluators
    first, second = (uniform(task, f"weight=int{bits}:channel:mse,activation=int8:tensor:mse") for bits in (4, 8))
    for policy in (first, second):
        there(policy)
    second_device.copies.clear()
    assert there(first).status == "ok"
    assert second_device.copies["elements"] == 0
    assert second_device.copies["items"] <= 5 * len(list(task.valid)), "per batch: finite, score, range of scores, loss"


def test_a_network_on_the_device_takes_batches_of_the_cpu(task: Task, device: torch.device) -> None:
    model = Network().eval().to(device)
    moved = Task(model, task.train, task.calib, task.valid, task.test)
    assert device_named("auto", model) == device
    layers = trace(model, task.calib[0][0])  # type: ignore[index]
    evaluator = Evaluator(moved, layers, EvaluateSection())
    assert evaluator.device == device
    assert evaluator(uniform(task, POLICIES[0])).status == "ok"


@pytest.mark.parametrize("method", ["forward", "fisher"])
def test_sensitivities_are_those_of_the_cpu(
    method: str, task: Task, evaluators: tuple[Evaluator, Evaluator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    layers = trace(task.model, task.calib[0][0])  # type: ignore[index]
    choices = {"weight": (parse("int4:channel"), parse("int8:channel")), "activation": (parse("int8:tensor"),)}
    space = rules.full(layers, choices)
    here, there = (
        Sensitivity(evaluator.engine, space, evaluator.calib, f"{method}-{evaluator.device.type}", method, 1)()  # type: ignore[arg-type]
        for evaluator in evaluators
    )
    for a, b in zip(here, there, strict=True):
        assert b == pytest.approx(a, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("method", TRAINED)
def test_an_epoch_of_training_is_that_of_the_cpu(method: str, task: Task, device: torch.device) -> None:
    config, policy = QatConfig(method=method, epochs=1, lr=1e-3, distill=0.5), uniform(task, TRAINED[method])
    losses = []
    for place in (torch.device("cpu"), device):
        model = placed(reference_network(task.model), place)
        prepared, history = trained(Task(model, task.train, task.calib, task.valid, task.test), policy, config)
        assert {tensor.device.type for tensor in prepared.state_dict().values()} == {place.type}
        losses.append(history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("fidelity", ["ptq", "qat"])
def test_an_export_is_of_the_cpu_and_leaves_the_engine_where_it_is(fidelity: str, task: Task, device: torch.device, tmp_path: Path) -> None:
    layers, section = trace(task.model, task.calib[0][0]), EvaluateSection(epochs=1)  # type: ignore[index]
    evaluator, policy = Evaluator(task, layers, section, device=device), uniform(task, POLICIES[0])
    accuracy = evaluator.metrics(policy, "valid", fidelity)["loss"]
    network = evaluator.quantized(policy, fidelity)
    for part in (network.simulation, network.base, network.plain):
        assert {tensor.device.type for tensor in part.state_dict().values()} == {"cpu"}
    assert network.simulation(network.example).device.type == "cpu"
    assert evaluator.device == device
    assert evaluator.metrics(policy, "valid", fidelity)["loss"] == accuracy


def test_a_network_that_stands_alone_is_where_the_float_one_is(task: Task, evaluators: tuple[Evaluator, Evaluator]) -> None:
    _, there = evaluators
    layers, inputs = trace(task.model, there.calib[0]), there.calib[0]
    policy = uniform(task, POLICIES[0])
    alone = standalone(there.engine, task.model, layers, policy, inputs)
    assert torch.allclose(alone(inputs), there.engine.apply(policy)(inputs.to(there.device)).cpu(), atol=1e-4)


def test_half_precision_is_near_float(task: Task, device: torch.device) -> None:
    layers, policy = trace(task.model, task.calib[0][0]), uniform(task, POLICIES[0])  # type: ignore[index]
    single = Evaluator(task, layers, EvaluateSection(), device=device).metrics(policy, "valid")["loss"]
    kinds = [] if device.type == second_device.NAME else ["bfloat16", "float16"]
    for kind in kinds:
        half = Evaluator(task, layers, EvaluateSection(), device=device, dtype=kind).metrics(policy, "valid")["loss"]
        assert half == pytest.approx(single, rel=0.1)
        assert half != single


def images() -> Task:
    """Return a task of small images, as an experiment names it."""
    model, pixels = tiny(1, 4).train(), torch.randn(64, 1, 24, 24)
    with torch.no_grad():
        model(pixels)
    batches = [(part, torch.randint(0, 4, (16,))) for part in pixels.split(16)]
    return Task(model.eval(), batches, batches[:2], batches, batches)


@pytest.mark.slow
def test_a_sweep_runs_on_the_device_and_is_exported(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    changes = [
        "task.name=tests.accelerators:images",
        "search.trials=3",
        "search.searcher=random",
        "space.weight.clipping=minmax",
        "name=there",
    ]
    experiment = load(ROOT / "examples" / "digits.toml", [*changes, f"run.device={device.type}"])
    outcome = start(experiment, "plain")
    assert [trial.result.status for trial in outcome.record.trials] == ["ok"] * 3
    uri = experiment.track.uri
    done = export(uri, "there", "0", ["policy", "onnx", "safetensors"], tmp_path / "there")
    assert done["safetensors"].checks["largest_output_difference"] == 0
    done = export(uri, "there", "0", ["policy", "onnx"], tmp_path / "here", run={"device": "cpu"})
    assert float(done["onnx"].checks["top1_agreement"]) > 0.98
