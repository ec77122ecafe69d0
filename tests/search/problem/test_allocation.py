"""Reading allocation problems, and the proven optima of HAWQ-V3's two."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from quant_core.util.errors import InputError
from search.problem.allocation import read
from search.searchers.solvers.milp import solve

PROBLEMS = Path(__file__).parents[3] / "benchmarks" / "problems"
SMALL: dict[str, Any] = {
    "choices": ["a8", "a4", "a2"],
    "layers": ["x", "y", "z", "last"],
    "ties": [[0, 2], [2, 3]],
    "loss": [[0.0, 0.1, 0.5], [0.0, 0.3, 0.9], [0.0, 0.2, 0.4], [0.0, 0.1, 0.1]],
    "cost": {"bytes": [[8, 4, 2], [16, 8, 4], [24, 12, 6], [8, 4, 2]], "time": [[3, 2, 1]] * 4},
    "limits": {"bytes": 40, "time": 9},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "problem.json"
    path.write_text(json.dumps({**SMALL, **changes}))
    return path


@pytest.mark.parametrize("name", ["hawqv3_resnet18", "hawqv3_resnet50"])
def test_integer_program_reproduces_the_stated_optima(name: str) -> None:
    allocation = read(PROBLEMS / f"{name}.json")
    assert len(allocation.optimum) == 9
    for optimum in allocation.optimum:
        limit = allocation.limit(optimum["metric"], optimum["ratio"])
        assert limit == pytest.approx(optimum["limit"], rel=1e-12)
        bound = allocation.problem({optimum["metric"]: limit})
        values = solve(bound.problem, bound.problem.sensitivity())  # type: ignore[misc]
        assert values is not None
        assert bound.loss(values) == pytest.approx(optimum["loss"], abs=1e-12)
        assert bound.choice(values) == optimum["choice"]
        assert bound.cost(values)[optimum["metric"]] <= limit


def test_ties_orders_and_sums_agree_with_a_direct_reading(tmp_path: Path) -> None:
    allocation = read(write(tmp_path))
    assert allocation.groups == ((0, 2, 3), (1,))
    bound = allocation.problem(allocation.limits)
    for values in itertools.product(range(3), repeat=2):
        chosen = bound.choice(values)
        assert chosen[0] == chosen[2] == chosen[3] == 2 - values[0]  # choices are ordered from cheap to expensive
        assert bound.loss(values) == pytest.approx(sum(SMALL["loss"][n][k] for n, k in enumerate(chosen)))
        direct = {metric: sum(rows[n][k] for n, k in enumerate(chosen)) for metric, rows in SMALL["cost"].items()}
        assert bound.cost(values) == pytest.approx(direct)
        assert bound.problem.feasible(values) == all(direct[metric] <= limit for metric, limit in SMALL["limits"].items())


def test_a_ratio_follows_the_rule_of_the_file(tmp_path: Path) -> None:
    rule = "limit = cost(all a2) + ratio * (cost(all a8) - cost(all a2))"
    assert read(write(tmp_path, budget_rule=rule)).limit("bytes", 0.25) == 14 + 0.25 * (56 - 14)
    with pytest.raises(InputError, match=r"unknown metric 'byte'; the file has bytes, time\. Did you mean 'bytes'"):
        read(write(tmp_path, budget_rule=rule)).limit("byte", 0.5)
    with pytest.raises(InputError, match="states no budget rule for a ratio"):
        read(write(tmp_path)).limit("bytes", 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": [[0.0, 0.1]] * 4}, r"loss must hold finite numbers in 4 rows \(layers\) of 3 \(choices\); shape \(4, 2\) given"),
        ({"cost": {"bytes": [[1, 2, float("nan")]] * 4}}, r"cost\.bytes must hold finite numbers"),
        ({"ties": [[0, 9]]}, r"tie \[0, 9\] given; allowed: at least two layer indices from 0 to 3"),
        ({"limits": {"energy": 1}}, r"limits\.energy = 1\.0 given; allowed: a finite number for one of bytes, time"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, **changes))


def test_an_absent_or_partial_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the problem .*none\.json: No such file"):
        read(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("x")
    with pytest.raises(InputError, match="is not JSON"):
        read(tmp_path / "text.json")
    (tmp_path / "part.json").write_text('{"choices": ["a"], "layers": ["b"]}')
    with pytest.raises(InputError, match="loss, cost missing; a problem has choices, layers, loss, cost"):
        read(tmp_path / "part.json")
