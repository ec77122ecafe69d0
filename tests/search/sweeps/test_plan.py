"""The plan of a sweep: costs as the cost table has them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_models.loading import load_device
from hw_models.models import Pair
from hw_models.table import build_table
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError
from search.config.experiment import Experiment
from search.sweeps.plan import Plan, build_problem, planned, reference_cost
from spaces import rules
from spaces.space import SLOTS, Space

CHOICES = {"weight": [parse(f"int{bits}:tensor") for bits in (2, 4, 8)], "activation": [parse("int4:tensor"), parse("int8:tensor")]}
LAYERS = tuple(Layer(f"l{n}", "linear", n + 3, n + 4, (n + 4, n + 3), (1,), (1,), (n + 4) * (n + 3)) for n in range(5))
PAIRED = ((0, 1), (2, 1), (1, 4), (3, 3))
STATES = st.tuples(*[st.sampled_from(["free", "tied", "fixed"])] * len(LAYERS))
EXPERIMENT = Experiment.model_validate(
    {
        "task": {"name": "digits"},
        "space": {"weight": ["int4:tensor", "int8:tensor"], "activation": ["int4:tensor", "int8:tensor"]},
        "device": {"name": "counts"},
    }
)


def space_of(weight: tuple[str, ...], activation: tuple[str, ...]) -> Space:
    """Return the space in which the slots of every layer are free, tied to the others that are tied, or fixed."""
    space = rules.full(LAYERS, CHOICES)
    for slot, states in zip(SLOTS, (weight, activation), strict=True):
        names = {state: [layer.name for layer, own in zip(LAYERS, states, strict=True) if own == state] for state in states}
        space = rules.fix(space, names.get("fixed", []), slot, CHOICES[slot][-1])
        space = rules.tie(space, names["tied"], slot) if "tied" in names else space
    return space


@settings(max_examples=60, deadline=None)
@given(weight=STATES, activation=STATES, seed=st.integers(0, 99))
def test_problem_and_cost_table_agree_where_layers_are_tied_or_fixed(
    weight: tuple[str, ...], activation: tuple[str, ...], seed: int
) -> None:
    space, device = space_of(weight, activation), load_device("counts")
    assume(space.dimensions)
    table, rng = build_table(device, LAYERS, space.layer_choices), np.random.default_rng(seed)
    shapes = [(len(table.choices[n]), len(table.choices[m])) for n, m in PAIRED]
    table = replace(
        table, pairs=tuple(Pair("bit_ops", n, m, rng.normal(0, 99, shape)) for (n, m), shape in zip(PAIRED, shapes, strict=True))
    )
    problem = build_problem(Plan(EXPERIMENT, LAYERS, space, device, table, {}))
    assert all((pair.added >= 0).all() for pair in problem.pair_cost.get("bit_ops", ()))
    assert problem.peak == {"peak_activation_bytes"}
    points = rng.integers(space.cardinalities, size=(20, len(space.dimensions)))
    most_expensive = np.array([space.cardinalities]) - 1
    costs, truth, most = problem.costs(points), table.cost(space.layer_index(points)), table.cost(space.layer_index(most_expensive))
    assert set(costs) == set(truth)
    for metric, values in truth.items():
        np.testing.assert_allclose(costs[metric], values, rtol=1e-12, err_msg=metric)
        if metric != "bit_ops":
            assert problem.max_cost(metric) == pytest.approx(most[metric][0], rel=1e-12), metric
    assert problem.max_cost("bit_ops") >= truth["bit_ops"].max() * (1 - 1e-12)


@pytest.mark.parametrize(("budget", "limit"), [("0.4 of float", 102.4), ("1.0 of int8", 96.0), (100, 100.0)])
def test_the_bytes_of_the_kv_cache_are_a_cost_that_its_dimension_alone_decides(budget: str | int, limit: float) -> None:
    space = rules.kv_cache(rules.full(LAYERS, CHOICES), [parse(text) for text in ("float", "int8:token", "int2:token")])
    device, heads = load_device("counts"), ((2, 8),) * 4
    changed = EXPERIMENT.model_dump(mode="json") | {"device": {"name": "counts", "budget": {"kv_bytes_per_token": budget}}}
    changed["device"]["objectives"] = ["error", "kv_bytes_per_token"]
    plan = planned(Experiment.model_validate(changed), LAYERS, space, device, ["accuracy"], 0.0, heads)
    problem = build_problem(plan)
    assert plan.limits == {"kv_bytes_per_token": pytest.approx(limit)}
    zeros = [0] * len(space.dimensions)
    for kv, size in enumerate((256.0, 96.0, 48.0)):
        assert problem.costs_of([*zeros, kv])["kv_bytes_per_token"] == size
        assert problem.feasible([*zeros, kv]) == (size <= limit)
        assert problem.costs_of([*zeros, kv])["weight_bytes"] == problem.costs_of([*zeros, 0])["weight_bytes"]
    fixed = rules.kv_cache(space, [parse("int8:token")])
    alone = build_problem(planned(Experiment.model_validate(changed), LAYERS, fixed, device, [], 0.0, heads))
    assert alone.costs_of(zeros)["kv_bytes_per_token"] == 96.0
    with pytest.raises(InputError, match="unknown objective or budget of device 'counts' 'kv_bytes_per_token'"):
        planned(Experiment.model_validate(changed), LAYERS, rules.full(LAYERS, CHOICES), device, [], 0.0)


def test_uniform_policies_go_from_the_widest_integer_format_down_where_time_is_limited() -> None:
    choices = {"weight": [parse(text) for text in ("int2:tensor", "int8:tensor", "float", "int4:tensor")], "activation": []}
    space, device = rules.full(LAYERS, choices), load_device("counts")
    table = build_table(device, LAYERS, space.layer_choices)
    orders = []
    for minutes in (0, 1):
        experiment = EXPERIMENT.model_copy(update={"run": EXPERIMENT.run.changed({"minutes": minutes})})
        problem = build_problem(Plan(experiment, LAYERS, space, device, table, {}))
        orders.append([str(space.policy(values)["l0"].weight) for values in problem.baselines])
    assert orders == [["int2:tensor", "int8:tensor", "float", "int4:tensor"], ["int8:tensor", "int4:tensor", "int2:tensor", "float"]]


def test_uniform_policies_within_the_budget_come_first_where_not_all_of_them_are_evaluated() -> None:
    choices = {"weight": [parse(f"int{bits}:tensor") for bits in (2, 3, 4, 6, 8)], "activation": []}
    space, device = rules.full(LAYERS, choices), load_device("counts")
    table = build_table(device, LAYERS, space.layer_choices)
    limits = {"weight_bytes": 0.7 * sum(layer.weights for layer in LAYERS)}
    orders = []
    for trials in (5, 2):
        experiment = EXPERIMENT.model_copy(update={"search": EXPERIMENT.search.model_copy(update={"trials": trials})})
        problem = build_problem(Plan(experiment, LAYERS, space, device, table, limits))
        orders.append([space.policy(values)["l0"].weight.bits for values in problem.baselines])
    assert orders == [[2, 3, 4, 6, 8], [4, 3, 2, 8, 6]], "the best one within the budget is evaluated whatever the trials"


def test_the_costs_of_float_and_of_eight_bits() -> None:
    device, elements = load_device("counts"), sum(layer.weights for layer in LAYERS)
    assert reference_cost(device, LAYERS, "float")["weight_bytes"] == 4 * elements
    assert elements < reference_cost(device, LAYERS, "int8")["weight_bytes"] < 2 * elements, "codes, and scales beside them"
    with pytest.raises(InputError, match="float"):
        reference_cost(load_device("vu9p-bitserial"), LAYERS, "float")
