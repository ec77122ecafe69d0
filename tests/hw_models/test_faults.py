import pytest

from hw_models.device import DeviceError
from hw_models.loading import parse_device


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
    head, separator, tail = wrong.rpartition('source = "made-up"')
    with pytest.raises(DeviceError, match=r"toy.toml: 5 faults") as caught:
        parse_device(f'{head}source = "other"{tail}', where="toy.toml")
    assert separator
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
