import tomllib

from hypothesis import given
from hypothesis import strategies as st

from hw_models.schema.toml_text import dumps, lines_of

KEYS = st.text(min_size=1, max_size=8)
SCALARS = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_reads_back(data: dict[str, object]) -> None:
    assert tomllib.loads(dumps(data)) == data


def test_none_is_left_out_and_lists_of_tables_get_headers() -> None:
    text = dumps({"a": {"x": 1, "y": None}, "b": [{"z": 0.5}, {"z": 2.0, "w": {"k": "v"}}]})
    assert text == '[a]\nx = 1\n\n[[b]]\nz = 0.5\n\n[[b]]\nz = 2.0\nw = { k = "v" }\n'


def test_lines_of_finds_headers_and_keys() -> None:
    places = lines_of('top = 1\n[a]\nx = 2\n[[b.c]]\n"y" = 3\n\n[[b.c]]\ny = 4 # y = 5\n')
    assert places == {
        ("top",): 1,
        ("a",): 2,
        ("a", "x"): 3,
        ("b", "c", 0): 4,
        ("b", "c", 0, "y"): 5,
        ("b", "c", 1): 7,
        ("b", "c", 1, "y"): 8,
    }
