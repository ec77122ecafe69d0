"""`bitfront solve`: the best policy of other budgets, from the sensitivities of a sweep, without evaluating anything again."""

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from quant_core.spec.layer import layers_to_json
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import write_text
from quant_core.util.registry import unknown
from search import tracking
from search.cli.options import AsJson, ExperimentName, SweepName, Trust, Uri
from search.cli.terminal import say, short_name, terminal
from search.config.key_value import key_value
from search.config.store import DEFAULT_URI
from search.records.units import shown, title_of
from search.tracking.reading import LATEST

if TYPE_CHECKING:
    from quant_core.spec.policy import Policy
    from search.problem.problem import Problem
    from search.records.record import SweepRecord
    from search.sweeps.context import SweepContext
    from search.sweeps.plan import Plan
    from spaces.space import Space


def solve_command(
    sweep: SweepName = LATEST,
    budget: Annotated[
        list[str] | None, typer.Option("--budget", help="METRIC=LIMIT, as 12000, '0.2 of float' or '60% of int8'; may be repeated.")
    ] = None,
    front: Annotated[
        str, typer.Option("--front", metavar="METRIC", help="Solve under 16 budgets of this cost, over its whole range.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the policy, for `bitfront export --pick FILE`.")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Evaluate the policy on validation and test.")] = False,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Solve for the policy of the least summed sensitivity under other budgets; nothing is scored again.

    Example: `bitfront solve digits-auto-1124-101500 --budget "weight_bytes=0.1 of float" --out tight.json`
    """
    if not budget and not front:
        raise InputError("give --budget METRIC=LIMIT, or --front METRIC for all budgets.")
    if front and (out or evaluate):
        raise InputError("--front with --out or --evaluate given; choose one budget of the front and give it as --budget METRIC=LIMIT.")
    record = tracking.read(uri, sweep, mlflow_experiment)
    plan, problem, context = _problem(record, _budget(budget or []), trust, evaluate)
    if front:
        rows = _front_rows(record, plan.space, problem, front)
        typer.echo(json.dumps(rows, indent=2)) if as_json else _show_front(record, front, rows)
        return
    policy, result = _solved(record, plan.space, problem)
    result["scored"] = context.sensitivity.evaluations if context else 0
    metric = record.infos[0].name
    if out:
        write_text(out, json.dumps(policy.to_json() | {"network": layers_to_json(plan.layers)}, indent=1) + "\n")
    if evaluate and context:
        result |= {f"{metric}_{split}": context.evaluator.metrics(policy, split)[metric] for split in ("valid", "test")}
    if as_json:
        typer.echo(json.dumps(result | policy.to_json(), indent=2))
        return
    _show(policy, result, record)
    _say_how_to_export(record.name, out)


def _solved(record: "SweepRecord", space: "Space", problem: "Problem") -> "tuple[Policy, dict[str, Any]]":
    """Return the policy of the least summed sensitivity within the problem's limits, and what is known of it."""
    from search.searchers.base.losses import losses
    from search.searchers.solvers.ranking import optimum
    from search.sweeps.estimate import estimated_metric

    sensitivities = losses(problem)
    start = time.perf_counter()
    answer = optimum(problem, sensitivities)
    seconds = time.perf_counter() - start
    if answer is None:
        limits = ", ".join(f"{metric} <= {shown(metric, limit)}" for metric, limit in problem.limits.items())
        raise BitfrontError(f"no policy keeps all of {limits} at once; raise one of them.")
    policy = space.policy(answer.values)
    return policy, {
        "id": policy.id,
        f"estimated_{record.infos[0].name}": estimated_metric(record, sensitivities, answer.values),
        **{"estimated_loss_rise": answer.loss, "bound": answer.bound, "gap": answer.gap, "proven": answer.proven},
        "cost": problem.costs_of(answer.values),
        "seconds": seconds,
    }


def _front_rows(record: "SweepRecord", space: "Space", problem: "Problem", metric: str) -> list[dict[str, Any]]:
    """Return a row for every budget: cost, estimates and the policy.

    Raises:
        InputError: the device has no such cost.
    """
    from search.searchers.base.losses import losses
    from search.searchers.solvers.front import solved_front
    from search.sweeps.estimate import estimated_metric

    if metric not in problem.site_cost or metric in problem.peak:
        raise unknown("cost", metric, [name for name in problem.site_cost if name not in problem.peak])
    sensitivities, judge = losses(problem), record.infos[0].name
    return [
        {
            metric: point.cost,
            f"estimated_{judge}": estimated_metric(record, sensitivities, point.solution.values),
            "estimated_loss_rise": point.solution.loss,
            "proven": point.solution.proven,
            "id": policy.id,
            "policy": policy.to_json(),
        }
        for point in solved_front(problem, sensitivities, metric)
        for policy in (space.policy(point.solution.values),)
    ]


def _show_front(record: "SweepRecord", metric: str, rows: list[dict[str, Any]]) -> None:
    """Print a line per budget."""
    judge = record.infos[0].name
    table = Table(title_of(metric), f"{judge}, estimated", "estimated loss rise", "", "policy", box=None)
    for row in rows:
        estimate = shown(judge, row[f"estimated_{judge}"], record.infos)
        rise = f"{row['estimated_loss_rise']:.4g}"
        table.add_row(shown(metric, row[metric]), estimate, rise, "optimal" if row["proven"] else "not proven", row["id"])
    terminal().print(table)
    say(f"one of them: bitfront solve {shlex.quote(record.name)} --budget {metric}=LIMIT --out FILE.json")


def _problem(
    record: "SweepRecord", budget: Mapping[str, object], trust: bool, evaluate: bool
) -> "tuple[Plan, Problem, SweepContext | None]":
    """Return a recorded sweep's choices, its problem under another budget, and its network, open for evaluation, where it had to be loaded.

    It is loaded, and compared with what the sweep recorded, to evaluate a policy, and where no basis is kept.
    """
    from search.config.files import loads
    from search.sweeps.basis import kept, plan_of
    from search.sweeps.plan import build_problem
    from search.sweeps.trust import require_trust

    require_trust(record, trust)
    experiment = loads(record.experiment, f"experiment of sweep {record.name}")
    basis = None if evaluate else kept(experiment, record.fingerprints)
    if basis:
        plan = plan_of(basis, experiment.with_budget(budget), [info.name for info in record.infos])
        problem = build_problem(plan, float_error=record.baseline["error_valid"])
        return plan, replace(problem, sensitivity=lambda: basis.rises), None
    from search.sweeps.context import check_fingerprints, open_context

    context = open_context(experiment.with_budget(budget))
    check_fingerprints(record, context.setup, ("weights", "data"))
    return context.setup.plan, context.problem(record.baseline), context


def _show(policy: "Policy", result: Mapping[str, Any], record: "SweepRecord") -> None:
    """Print the policy layer by layer, its cost, how good it should be and, where it was evaluated, is, and what solving took."""
    from quant_core.spec.policy import NONE

    table = Table("layer", "weight", "activation", box=None)
    for name, choice in policy.items():
        table.add_row(short_name(name), str(choice.weight), str(choice.activation))
    console = terminal(soft_wrap=True)
    console.print(table)
    if policy.transform != NONE:
        console.print(f"network: {policy.transform}")
    if not policy.kv.is_float:
        console.print(f"KV cache: {policy.kv}")
    console.print(", ".join(f"{title_of(metric)} {shown(metric, value)}" for metric, value in result["cost"].items()))
    metric = record.infos[0].name
    judged = [("estimated from the trials", result[f"estimated_{metric}"])]
    judged += [(f"measured on {split}", result[key]) for split in ("valid", "test") if (key := f"{metric}_{split}") in result]
    texts = [f"{shown(metric, value, record.infos)} {how}" for how, value in judged if value is not None]
    if texts:
        console.print(f"{metric} {', '.join(texts)}")
    proof = "proven optimal" if result["proven"] else f"not proven, gap {result['gap']:.3g}"
    rise, bound = f"{result['estimated_loss_rise']:.6g}", f"no policy within the budget has less than {result['bound']:.6g}"
    console.print(f"estimated loss rise {rise}: {proof}; {bound}")
    console.print(f"policy {policy.id}: solved in {shown('solve_s', result['seconds'])}; {result['scored']} evaluations")


def _say_how_to_export(sweep: str, out: Path | None) -> None:
    command = f"bitfront export {shlex.quote(sweep)} --pick {shlex.quote(str(out or 'FILE.json'))} --out FOLDER"
    say(f"to export it: {command}{'' if out else ', with a policy that --out FILE.json wrote'}")


def _budget(texts: list[str]) -> dict[str, object]:
    """Read METRIC=LIMIT texts."""
    return dict(key_value(text, "budget", "METRIC=LIMIT", "weight_bytes=12000 or 'latency_s=60% of int8'") for text in texts)
