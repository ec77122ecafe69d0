from hw_models.loading import load_device, parse_device
from hw_models.validation.widths import widths, widths_row


def test_what_a_device_runs_stores_and_moves() -> None:
    assert widths(load_device("bitfusion"))[1:] == ("own bits, packed", "as stored")
    assert widths(load_device("mpic")) == ("int1 as int2, int3 as int4, int5-7 as int8", "own bits, packed", "not counted")
    assert widths(load_device("t4"))[2] == "as what runs"
    assert widths_row(load_device("counts")) == "| `counts` | every code as itself | own bits, packed | not counted |"


def test_slots_and_kinds_that_differ_are_told_apart(toy: str) -> None:
    runs = widths(parse_device(toy))[0]
    assert runs == "w: int3 as int4, int5-7 as int8; a: every code as itself / every code as itself; int8/int4 as int8/int8"
