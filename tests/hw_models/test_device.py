from pathlib import Path

import pytest

from hw_models.device import DeviceError
from hw_models.loading import device_names, load_device, parse_device
from hw_models.schema.device_file import LayerKind
from hw_models.shapes import read_layers
from hw_models.table import cost_policy
from hw_models.validation.run import validate
from quant_core.spec.layer import KINDS, Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

CONV = Layer("a", "conv", 4, 8, (8, 4, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 4 * 9, (3, 3), (1, 1), (1, 1))
DEPTHWISE = Layer("d", "depthwise", 8, 8, (8, 1, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 9, (3, 3), (1, 1), (1, 1), groups=8)


def choice(weight: str, activation: str) -> LayerPolicy:
    return LayerPolicy(parse(weight), parse(activation))


def test_the_kinds_of_layers_are_those_of_quant_core() -> None:
    assert LayerKind.__args__ == KINDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", device_names())
def test_every_device_survives_json_and_toml(name: str) -> None:
    device = load_device(name)
    again = parse_device(device.to_toml(), device.folder)
    assert device.name == name
    assert again.to_json() == device.to_json()
    assert again.file == device.file
    assert again.compute == device.compute


def test_a_users_file_is_loaded_by_path(tmp_path: Path, toy: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(toy)
    assert load_device(path).name == "toy"
    assert load_device(str(path)).batch == 2


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown device 'vu9p-bitseriel'; known: .*t4.* Did you mean 'vu9p-bitserial'.* path of a TOML"):
        load_device("vu9p-bitseriel")


def test_broken_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("schema = 1\n[identity\n")
    with pytest.raises(DeviceError, match=r"x.toml: not TOML: .*line 2"):
        load_device(path)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DeviceError, match=r"x.toml: cannot be read as text"):
        load_device(path)
    with pytest.raises(InputError, match=r"x.toml: cannot be read as CSV"):
        read_layers(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_hz = 1e6", "clock = 1e6", r"line 8, identity.clock: unknown key: it has no unit; write clock_hz"),
        ("sram_bytes = 1000", "sram = 1000", r"constraints.sram: unknown key: it has no unit; write sram_bytes"),
        ("rows = 4", "row = 4", r"line 29, compute.row: unknown key.*Did you mean 'rows'"),
        ("rows = 4\n", "", r"compute.rows: needed, but not given"),
        (
            'weights = ["int2", "int4", "int8"]',
            'weights = ["int2", "int40"]',
            r"line 14, capability\[0\].weights\[1\]: 'int40': illegal bits",
        ),
        ('"int8/int8"]', '"int8-int8"]', r"capability\[1\].pairs\[0\]: 'int8-int8' is no pair"),
        ('int3 = "int4"', 'int3 = "int44"', r"capability\[0\].weight_plateau.int3: 'int44': illegal bits"),
        ('layers = ["depthwise"]', 'layers = ["pool"]', r"capability\[1\].layers\[0\]: Input should be 'linear', 'conv'"),
        (
            'word_bits = 64\nsource = "made-up"',
            'word_bits = 64\nsource = "paper"',
            r"line 32, compute.source: source id 'paper' does not exist; known: made-up",
        ),
        ('word_bits = 64\nsource = "made-up"', "word_bits = 64", r"compute.source: needed, but not given"),
        ('kind = "bitserial"', 'kind = "bitseriel"', r"line 7, identity.kind: unknown device kind 'bitseriel'.*Did you mean 'bitserial'"),
        ('kind = "bitserial"', 'kind = "math:pi"', r"identity.kind: 'math:pi' is float; a hw_models.models.Model is needed"),
        ("schema = 1", "schema = 2", r"line 2, schema: Input should be 1"),
        ("batch = 2", "batch = 0", r"line 9, identity.batch: Input should be greater than or equal to 1 \(given: 0\)"),
        ('layers = ["depthwise"]', 'layers = ["conv"]', r"capability\[1\].layers: layer kind 'conv' is named twice"),
        ('int3 = "int4"', 'int3 = "int6"', r"capability\[0\].weight_plateau.int3: 'int6' is not among the weights int2, int4, int8"),
        ('"int8/int4" = "int8/int8"', '"int8/int4" = "int4/int4"', r"pair_plateau.int8/int4: 'int4/int4' is not among the pairs int8/int8"),
        (
            "[constraints]",
            '[[source]]\nid = "made-up"\ntitle = "x"\n\n[constraints]',
            r"source\[1\].id: source id 'made-up' is named twice",
        ),
        ("clock_hz = 1e6", "clock_hz = inf", r"identity.clock_hz: Input should be a finite number"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(toy: str, old: str, new: str, message: str) -> None:
    assert old in toy
    with pytest.raises(DeviceError, match=message):
        parse_device(toy.replace(old, new))


def test_all_faults_are_listed_at_once_in_file_order(toy: str) -> None:
    wrong = toy.replace("clock_hz", "clock").replace('"int2"', '"int20"').replace("rows = 4", "rows = 'x'").replace("sram_bytes", "sram")
    head, found, tail = wrong.rpartition('source = "made-up"')
    with pytest.raises(DeviceError, match=r"toy.toml: 5 faults") as caught:
        parse_device(f'{head}source = "other"{tail}', where="toy.toml")
    assert found
    places = [line.split(":")[0].split(", ")[1] for line in str(caught.value).splitlines()[1:]]
    assert places == ["identity.clock", "capability[0].weights[0]", "compute.rows", "constraints.sram", "constraints.source"]


def test_a_golden_check_must_exist_and_so_must_its_file(toy: str) -> None:
    golden = """
[[golden]]
name = "g"
check = "guess"
metric = "latency_s"
unit = "s"
file = "nowhere.csv"
tolerance_mean_percent = 1.0
tolerance_max_percent = 1.0
source = "made-up"
"""
    with pytest.raises(DeviceError, match=r"golden\[0\].check: unknown check 'guess'; known for this kind: policies") as caught:
        parse_device(toy + golden)
    assert "golden[0].file: 'nowhere.csv' is not in" in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "policy", "runs_as"),
    [
        (CONV, choice("int4:channel", "int8"), ("int4", "int8")),
        (CONV, choice("int3:channel", "int8"), ("int4", "int8")),
        (CONV, choice("int6:group32", "int4"), ("int8", "int4")),
        (CONV, choice("int4:channel:affine", "int8"), None),
        (CONV, choice("int1:channel", "int8"), None),
        (CONV, choice("int9:channel", "int8"), None),
        (CONV, choice("float", "int8"), None),
        (CONV, choice("kmeans4", "int8"), None),
        (CONV, choice("int4:channel", "int3"), None),
        (DEPTHWISE, choice("int8:channel", "int4"), ("int8", "int8")),
        (DEPTHWISE, choice("int4:channel", "int8"), None),
    ],
)
def test_legal_says_what_runs_and_as_what(toy: str, layer: Layer, policy: LayerPolicy, runs_as: tuple[str, str] | None) -> None:
    legal = parse_device(toy).legal(layer)
    assert legal.run_as(policy) == runs_as
    assert legal.allows(policy) == (runs_as is not None)


def test_what_cannot_run_is_an_error_that_names_the_layer_and_what_is_legal(toy: str) -> None:
    device = parse_device(toy)
    with pytest.raises(
        InputError, match=r"layer 'a' \(conv\): toy cannot run weight=int1:.*legal: weights int2, int4, int8, int3, int5-7 \(sym"
    ):
        cost_policy(device, (CONV,), {"a": choice("int1:channel", "int8")})
    with pytest.raises(InputError, match=r"layer 'd' \(depthwise\).*only in the pairs int8/int4, int8/int8"):
        cost_policy(device, (CONV, DEPTHWISE), {"a": choice("int4", "int8"), "d": choice("int4", "int8")})
    embedding = Layer("e", "embedding", 8, 8, (100, 8), (5,), (5,), 0)
    with pytest.raises(InputError, match=r"layer 'e' .*legal: nothing: the device does not run layers of this kind"):
        cost_policy(device, (embedding,), {"e": choice("int4", "float")})


def test_a_policy_without_a_layer_is_refused(toy: str) -> None:
    with pytest.raises(InputError, match="the policy has no entry for a; it names b"):
        cost_policy(parse_device(toy), (CONV,), {"b": choice("int4", "int8")})


def test_a_model_in_cycles_needs_a_clock(toy: str) -> None:
    device = parse_device(toy.replace("clock_hz = 1e6\n", ""))
    with pytest.raises(DeviceError, match=r"\[identity\] has no clock_hz, which kind 'bitserial' needs"):
        cost_policy(device, (CONV,), {"a": choice("int4", "int8")})


OWN_MODEL = """
import numpy as np
from hw_models.models import LayerCost, Model, compare_points
from hw_models.schema.device_file import Compute

class OwnCompute(Compute):
    seconds_per_bit: float

def build(device):
    seconds = device.compute_as(OwnCompute).seconds_per_bit
    return lambda layer, choices: LayerCost(latency_s=seconds * choices.w_bits.astype(np.float64))

def doubled(device, golden):
    seconds = 2 * device.compute_as(OwnCompute).seconds_per_bit
    return compare_points(golden, [seconds] * len(golden.points))

CHECKS = {"as a function": doubled, "as a path": "own_model_of_this_test:doubled", "astray": "own_model_of_this_test:__name__"}
MODEL = Model(OwnCompute, build, "time follows the weight bits", CHECKS)
"""
OWN_GOLDEN = """
[[golden]]
name = "g"
check = "CHECK"
metric = "latency_s"
unit = "s"
points = [{ name = "p", expected = 1.0 }]
tolerance_mean_percent = 0.0
tolerance_max_percent = 0.0
source = "made-up"
"""


def test_a_users_own_model_is_named_by_its_path(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model_of_this_test.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = toy.replace('kind = "bitserial"', 'kind = "own_model_of_this_test:MODEL"')
    with pytest.raises(DeviceError, match=r"compute.seconds_per_bit: needed, but not given") as caught:
        parse_device(text)
    assert "compute.rows: unknown key" in str(caught.value)
    device = parse_device(text.replace("rows = 4\ncols = 4\nword_bits = 64", "seconds_per_bit = 0.5"))
    assert cost_policy(device, (CONV,), {"a": choice("int3:channel", "int8")})["latency_s"] == 0.5 * 4


@pytest.mark.parametrize("check", ["as a function", "as a path"])
def test_a_users_own_model_brings_its_own_golden_checks(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    (tmp_path / "own_model_of_this_test.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = toy.replace('kind = "bitserial"', 'kind = "own_model_of_this_test:MODEL"')
    text = text.replace("rows = 4\ncols = 4\nword_bits = 64", "seconds_per_bit = 0.5") + OWN_GOLDEN
    (outcome,) = validate(parse_device(text.replace("CHECK", check)))
    assert (outcome.n, outcome.exact, outcome.passed) == (1, 1, True)
    with pytest.raises(InputError, match="golden check 'astray': 'own_model_of_this_test:__name__' is str; a function of device"):
        validate(parse_device(text.replace("CHECK", "astray")))
