"""Text from outside: nothing hidden is printed, and lists stay short."""

import unicodedata

import pytest
from hypothesis import given as draws
from hypothesis import strategies as st

from quant_core.spec.policy import SCHEMA, Policy
from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from quant_core.util.text import given, listed, printable


@draws(st.text())
def test_nothing_hidden_is_left(text: str) -> None:
    shown = printable(text)
    assert all(character == "\n" or unicodedata.category(character)[0] not in "C" for character in shown)
    assert all(unicodedata.category(character) not in ("Zl", "Zp") for character in shown)


def test_what_can_be_seen_stays() -> None:
    assert printable("Größe 层 [/x]\nsecond line") == "Größe 层 [/x]\nsecond line"


def test_a_million_names_fit_on_a_screen() -> None:
    names = [f"layer{n}" for n in range(1_000_000)]
    assert listed(names).endswith("layer9 and 999990 more")
    assert len(str(unknown("layer", "x" * 10_000_000, names))) < 2_000
    assert len(listed(["x" * 10_000_000])) < 200


def test_a_value_that_was_given_is_cut() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(given("a" * 10_000_000)) < 200
    assert given(deep) == "a list"
    assert given(10**10_000) == "a int"


def test_errors_of_a_policy_stay_on_a_screen() -> None:
    for entry in ({"weight": "x" * 10_000_000}, {"y" * 1_000_000: ""}, "z" * 10_000_000, {"weight": ":".join(["int4"] * 100_000)}):
        with pytest.raises(InputError) as caught:
            Policy.from_json({"schema": SCHEMA, "layers": {"n" * 1_000_000: entry}})
        assert len(str(caught.value)) < 2_000
