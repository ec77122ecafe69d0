"""Rules of code that runs on any device, and the definitions in torch of the compiled loops. `tests/test_accelerators.py` runs it there."""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core import clipping
from quant_core.network import statistics
from quant_core.spec.quant_spec import parse
from quant_core.util.devices import available, device_named, placed, precision, relocated
from quant_core.util.errors import InputError
from search.config.files import loads

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for folder in ("quant_core", "search/evaluation") for path in (ROOT / folder).rglob("*.py"))
ON_CPU = {  # why tensors are on the CPU in these modules
    "quant_core/export/": "exporters are given a network on the CPU (`on_cpu`)",
    "quant_core/kernels/": "compiled loops",
    "quant_core/codecs/packing.py": "bytes of a file",
    "quant_core/codecs/affine.py": "only in `fused`, which is for the CPU",
    "quant_core/codecs/binary.py": "only in `fused`",
    "quant_core/codecs/ternary.py": "only in `fused`",
    "quant_core/codecs/codebook.py": "centres are searched on the CPU, once per layer and spec",
    "quant_core/codecs/sign_sums.py": "under a test of the device",
    "quant_core/codecs/scale_search.py": "under a test of the device",
    "quant_core/clipping/": "compiled loops, under a test of the device; a histogram for `kl`",
    "quant_core/network/moments.py": "sums and rows that lie in a file",
    "quant_core/network/statistics.py": "under a test of the device; the bins of a histogram",
    "quant_core/ptq/adaround.py": "single weights are flipped on the CPU, once per layer and spec",
    "quant_core/ptq/gptq.py": "columns are rounded by compiled loops on the CPU, once per layer and spec",
    "quant_core/qat/functions.py": "under a test of the device",
    "quant_core/qat/xnor.py": "under a test of the device",
    "quant_core/qat/checkpoint.py": "a hash",
    "quant_core/reconstruct/inputs.py": "bits of a CPU generator, the same on every device",
    "quant_core/transforms/smooth.py": "scales of channels, in float64, once per transform",
    "quant_core/util/rng.py": "states of generators",
    "quant_core/util/spill.py": "a file, seen as a tensor",
    "search/evaluation/gradient.py": "figures: inner products, one per example and choice",
}
GENERATORS = "quant_core/util/rng.py"
FACTORIES = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros"}
PLACED_LATER = {  # factory calls without a device, by module: how many, and where their tensors go
    "quant_core/network/linearity.py": (3, "`.to(weight)`; numbers of a CPU generator"),
    "quant_core/network/moments.py": (2, "the empty sums or sample of a layer that no batch reached"),
    "quant_core/ptq/gptq.py": (2, "sums and an empty codebook for loops on the CPU"),
    "quant_core/codecs/minifloat.py": (1, "a table that `decode` moves to the codes"),
    "quant_core/codecs/microscaling.py": (2, "one number, which torch takes from any device; a table that a search moves to the rows"),
    "quant_core/codecs/nvfp4.py": (1, "a table that a search moves to the rows"),
    "quant_core/codecs/scales.py": (1, "one number, read at once"),
    "quant_core/codecs/binary.py": (1, "only in `fused`, which is for the CPU"),
    "quant_core/codecs/packing.py": (1, "read from a file"),
    "quant_core/codecs/sign_sums.py": (2, "under a test of the device"),
    "quant_core/qat/lsq.py": (2, "`prepare` moves quantizers to their layer"),
    "search/evaluation/shuffling.py": (2, "positions within data that is held on the CPU"),
    "quant_core/qat/pact.py": (1, "`prepare` moves quantizers to their layer"),
    "quant_core/qat/ste.py": (2, "`prepare` moves quantizers to their layer"),
}
NUMERICAL = (
    "quant_core/clipping/",
    "quant_core/codecs/",
    "quant_core/network/",
    "quant_core/ptq/",
    "quant_core/qat/",
    "search/evaluation/",
)


def _where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _calls(path: Path) -> Iterator[tuple[ast.Call, str, str]]:
    """Yield every call with the name of the method and that of what it is called on, if that is a name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func.attr, getattr(node.func.value, "id", "")


def _placed(call: ast.Call) -> bool:
    return any(keyword.arg in ("device", None) for keyword in call.keywords)


def _unplaced(path: Path) -> list[int]:
    return [call.lineno for call, name, of in _calls(path) if of == "torch" and name in FACTORIES and not _placed(call)]


@pytest.mark.parametrize("path", MODULES, ids=_where)
def test_generators_are_made_in_one_place(path: Path) -> None:
    made = [call.lineno for call, name, of in _calls(path) if (of, name) == ("torch", "Generator")]
    assert not made or _where(path) == GENERATORS, f"{_where(path)}, lines {made}: use `rng.generator`, which draws alike on every device"


@pytest.mark.parametrize("path", MODULES, ids=_where)
def test_tensors_go_to_the_cpu_where_they_must(path: Path) -> None:
    copies = [call.lineno for call, name, _of in _calls(path) if name in ("numpy", "cpu", "from_numpy")]
    assert not copies or _where(path).startswith(tuple(ON_CPU)), f"{_where(path)}, lines {copies}: fails on a GPU, or is slow there"


@pytest.mark.parametrize("place", ON_CPU)
def test_every_home_of_a_copy_to_the_cpu_is_lived_in(place: str) -> None:
    calls = [name for path in MODULES if _where(path).startswith(place) for _call, name, _of in _calls(path)]
    assert {"numpy", "cpu", "from_numpy"} & set(calls), f"{place} copies nothing: remove it from ON_CPU"


@pytest.mark.parametrize("path", [path for path in MODULES if _where(path).startswith(NUMERICAL)], ids=_where)
def test_tensors_are_made_on_a_device(path: Path) -> None:
    lines, (allowed, _why) = _unplaced(path), PLACED_LATER.get(_where(path), (0, ""))
    assert len(lines) == allowed, f"{_where(path)}: {len(lines)} tensors made without device= in lines {lines}; {allowed} are allowed"


NORMALS = torch.cat([torch.randn(5, 333, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 333), torch.full((1, 333), 1.5)])


@pytest.mark.parametrize("affine", ["", ":affine"])
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "octav", "kl"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("x", [NORMALS, NORMALS.abs(), NORMALS[:, :5].pow(5)], ids=["signed", "unsigned", "short"])
def test_searches_are_their_definitions(x: Tensor, bits: int, method: str, affine: str) -> None:
    spec = parse(f"int{bits}:channel:{method}{affine}")
    for compiled, defined in zip(clipping.ranges(x, spec), clipping._clipped_there(x, spec), strict=True):
        assert torch.allclose(compiled, defined, rtol=1e-5, atol=0.0)


def test_the_search_of_powers_of_two_is_its_definition() -> None:
    spec = parse("int8:group32:mse:e8m0")
    for compiled, defined in zip(clipping.ranges(NORMALS, spec), clipping._clipped_there(NORMALS, spec), strict=True):
        assert torch.equal(compiled, defined)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ranges_of_numbers_that_are_not_finite_are_not_finite_either(value: float) -> None:
    x = torch.tensor([[1.0, value], [1.0, -2.0]])
    low, high = clipping._clipped_there(x, parse("int4:channel:mse"))
    assert not bool(torch.isfinite(high[0] - low[0]))
    assert bool(torch.isfinite(high[1] - low[1]))


@pytest.mark.parametrize("per_width", [0.0, 1.0, 4096.0, 1e6])
def test_the_histogram_is_its_definition(per_width: float) -> None:
    counts, sums = np.zeros(statistics.BINS), np.zeros(statistics.BINS)
    zeros = statistics._count(NORMALS.numpy().reshape(-1), per_width, counts, sums)
    defined = statistics.binned(NORMALS, per_width)
    assert defined[0] == zeros == 333
    assert np.array_equal(defined[1], counts)
    assert np.allclose(defined[2], sums, rtol=1e-12, atol=1e-9)


def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    assert available()[0] == "cpu"
    with pytest.raises(InputError, match=r"device 'cuda:77' is not on this machine, .*Here are cpu"):
        device_named("cuda:77")
    with pytest.raises(InputError, match=r"device 'GPU 0': give auto, cpu, or a type and a number as in cuda:1\. Here are cpu"):
        device_named("GPU 0")


def test_auto_is_the_cpu_for_a_small_network_and_the_place_of_one_that_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nn.Linear(4, 4), nn.Linear(1000, 1000)
    assert device_named("auto", small) == device_named("cpu") == torch.device("cpu")
    monkeypatch.setattr("quant_core.util.devices.available", lambda: ("cpu", "cuda:0", "cuda:1"))
    assert device_named("auto", small) == torch.device("cpu")
    assert device_named("auto", large) == torch.device("cuda:0") == device_named("cuda")
    assert device_named("cuda:1") == torch.device("cuda:1")


def test_a_network_that_is_there_is_not_copied() -> None:
    model = nn.Linear(4, 4)
    assert placed(model, torch.device("cpu")) is model
    assert placed(model, torch.device("meta")).weight.device.type == "meta"
    assert model.weight.device.type == "cpu"


def test_relocated_tensors_still_share_memory() -> None:
    weight = torch.arange(6.0)
    moved = relocated({"whole": weight, "part": weight[2:4]}, "cpu", pickle)
    moved["part"] += 10
    assert moved["whole"].tolist() == [0, 1, 12, 13, 4, 5]
    assert weight.tolist() == [0, 1, 2, 3, 4, 5]


def test_precision_is_that_of_matrix_products() -> None:
    model, x = nn.Linear(64, 8), torch.randn(2, 64)
    with precision(None, "float32"):
        assert model(x).dtype == torch.float32
    with precision(torch.device("cpu"), "bfloat16"):
        assert model(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ('device = "GPU"', "run.device|device"),
        ('dtype = "int8"', "float32"),
        ('device = "cpu"\ngpus_per_trial = 1', "device = 'cpu' and gpus_per_trial = 1 given; a trial on the CPU needs no GPU"),
    ],
)
def test_a_section_of_run_that_makes_no_sense_is_refused(run: str, message: str) -> None:
    text = '[task]\nname = "digits"\n[space]\nweight = "int8:channel"\nactivation = "float"\n[device]\nname = "counts"\n'
    with pytest.raises(InputError, match=message):
        loads(f"{text}[run]\n{run}\n")
