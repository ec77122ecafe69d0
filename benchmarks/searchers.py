"""The searchers against problems with known answers: `python -m benchmarks.searchers`; needs no GPU and no data.

Without `--problem` every searcher is run on every case and `docs/benchmarks.md` is written. With it, one problem file is solved:
`python -m benchmarks.searchers --problem FILE.json --searcher ilp --json`.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.searchers_problems import bound
from benchmarks.searchers_run import run
from quant_core.util.errors import InputError
from quant_core.util.quiet import quiet_stdout
from search.problem.allocation import BoundProblem, read


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 for bad input."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.budget_metric is None) != (options.ratio is None):
        parser.error("--budget-metric and --ratio go together")
    try:
        if options.problem:
            _one(options)
        else:
            from benchmarks.searchers_suite import suite

            suite(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searchers", description=__doc__)
    parser.add_argument("--problem", type=Path, help="solve this one problem file")
    parser.add_argument("--searcher", default="auto", help="which searcher solves it, or package.module:attribute (default: auto)")
    parser.add_argument("--budget-metric", help="metric of the budget, where the file states a rule")
    parser.add_argument("--ratio", type=float, help="ratio that the rule turns into a limit")
    parser.add_argument("--evaluations", type=int, default=300, help="evaluations per run (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the one run (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object: loss, choice, cost, seconds, evaluations")
    parser.add_argument("--quick", action="store_true", help="one seed, one budget per problem, 50 evaluations; prints only")
    parser.add_argument("--seeds", type=int, default=10, help="seeds per searcher, half as many for the agents (default: 10)")
    parser.add_argument("--families", default="P1,P2,P4,P5,P6", help="problems of the full run (default: P1,P2,P4,P5,P6)")
    parser.add_argument("--tables", action="store_true", help="run nothing; write the tables from the results that are there")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of benchmarks.md and benchmarks.svg (default: docs)")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), help="folder of benchmarks.json, .jsonl (default: benchmarks/results)"
    )
    return parser


def _one(options: argparse.Namespace) -> None:
    allocation = read(options.problem)
    if options.ratio is None and not allocation.limits:
        raise InputError(
            f"{options.problem} has no `limits`; give --budget-metric ({', '.join(allocation.cost)}) and --ratio, "
            "or add limits to the file."
        )
    problem = bound(allocation, options.budget_metric, options.ratio)
    with quiet_stdout():
        trace = run(problem.problem, problem.loss, options.searcher, seed=options.seed, evaluations=options.evaluations, baselines=False)
    if trace.values is None:
        raise InputError(f"{options.searcher} found no choice that keeps {dict(problem.problem.limits)}; are the limits together in reach?")
    answer = _answer(problem, trace.values, trace.seconds, trace.found_at)
    if options.json:
        print(json.dumps(answer))
    else:
        for name, value in answer.items():
            print(f"{name}: {value}")


def _answer(problem: BoundProblem, values: tuple[int, ...], seconds: float, evaluations: int) -> dict[str, object]:
    """Return the printed figures; `evaluations` counts those made until the answer was reached."""
    return {
        "loss": problem.loss(values),
        "choice": problem.choice(values),
        "cost": problem.cost(values),
        "seconds": round(seconds, 6),
        "evaluations": evaluations,
    }


if __name__ == "__main__":
    sys.exit(main())
