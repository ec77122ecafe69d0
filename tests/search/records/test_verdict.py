"""A comparison in a sentence."""

from collections.abc import Callable
from dataclasses import replace

from search.records.compare import compare
from search.records.front import front_members
from search.records.record import SweepRecord
from search.records.verdict import verdict

MakeSweep = Callable[..., SweepRecord]


def test_the_verdict_names_the_front_that_is_ahead(make_sweep: MakeSweep) -> None:
    many = make_sweep("many", trials=60)
    few = replace(many, name="few", trials=many.trials[:8])
    comparison = compare([few, many])
    text = verdict(comparison)
    back = f"{comparison.coverage[0][1]:.0%}".removesuffix("%")
    assert text.startswith(f"many's front dominates or equals 100 % of few's; of its own policies few's {back} %. At ")
    rows = [row for row in comparison.attained["weight_bytes"] if row["few"] is not None]
    row = rows[len(rows) // 2]
    gap = 100 * (row["many"] - row["few"])  # type: ignore[operator]
    assert f"KiB many is {gap:.2f} points of validation accuracy better than few." in text


def test_equal_fronts_and_fronts_without_a_budget_in_common(make_sweep: MakeSweep) -> None:
    one = make_sweep("one")
    assert "one and two are equal." in verdict(compare([one, replace(one, name="two")]))
    empty = make_sweep("empty", limits={"weight_bytes": 1.0})
    assert not front_members(empty)
    assert verdict(compare([one, empty])).startswith("one's front dominates or equals")
