"""`bitfront solve`: the best policy of other budgets, from the sensitivities of a sweep, without evaluating anything again."""

import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from quant_core.spec.layer import layers_to_json
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_text
from search import tracking
from search.cli.options import DEFAULT_URI, AsJson, ExperimentName, SweepName, Trust, Uri
from search.cli.terminal import say, short_name, terminal
from search.config.key_value import key_value
from search.records.units import shown, title_of
from search.tracking.reading import LATEST

if TYPE_CHECKING:
    from quant_core.spec.policy import Policy
    from search.problem.problem import Problem
    from search.records.record import SweepRecord
    from search.sweeps.context import SweepContext


def solve_command(
    budget: Annotated[
        list[str], typer.Option("--budget", help="METRIC=LIMIT, as 12000, '0.2 of float' or '60% of int8'; may be repeated.")
    ],
    sweep: SweepName = LATEST,
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
    from search.searchers.base.losses import losses
    from search.searchers.solvers.ranking import optimum
    from search.sweeps.estimate import estimated_metric

    record = tracking.read(uri, sweep, mlflow_experiment)
    context, problem = _problem(record, _budget(budget), trust)
    sensitivities = losses(problem)
    start = time.perf_counter()
    answer = optimum(problem, sensitivities)
    seconds = time.perf_counter() - start
    if answer is None:
        raise BitfrontError(f"no policy keeps all of {', '.join(budget)} at once; raise one of them.")
    policy, metric = context.setup.space.policy(answer.values), record.infos[0].name
    if out:
        write_text(out, json.dumps(policy.to_json() | {"network": layers_to_json(context.setup.layers)}, indent=1) + "\n")
    result = {
        "id": policy.id,
        f"estimated_{metric}": estimated_metric(record, sensitivities, answer.values),
        **{"estimated_loss_rise": answer.loss, "bound": answer.bound, "gap": answer.gap, "proven": answer.proven},
        "cost": problem.costs_of(answer.values),
        "seconds": seconds,
        "scored": context.sensitivity.evaluations,
    }
    if evaluate:
        result |= {f"{metric}_{split}": context.evaluator.metrics(policy, split)[metric] for split in ("valid", "test")}
    if as_json:
        typer.echo(json.dumps(result | policy.to_json(), indent=2))
        return
    _show(policy, result, record)
    _say_how_to_export(record.name, out)


def _problem(record: "SweepRecord", budget: Mapping[str, object], trust: bool) -> "tuple[SweepContext, Problem]":
    """Return a recorded sweep's network, open for evaluation, and its problem under another budget."""
    from search.config.files import loads
    from search.sweeps.context import check_fingerprints, open_context
    from search.sweeps.trust import require_trust

    require_trust(record, trust)
    experiment = loads(record.experiment, f"experiment of sweep {record.name}")
    context = open_context(experiment.with_budget(budget))
    check_fingerprints(record, context.setup, ("weights", "data"))
    return context, context.problem(record.baseline)


def _show(policy: "Policy", result: Mapping[str, Any], record: "SweepRecord") -> None:
    """Print the policy layer by layer, its cost, how good it should be and, where it was evaluated, is, and what solving took."""
    table = Table("layer", "weight", "activation", box=None)
    for name, choice in policy.items():
        table.add_row(short_name(name), str(choice.weight), str(choice.activation))
    console = terminal(soft_wrap=True)
    console.print(table)
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
