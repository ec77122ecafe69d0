"""How much better a picked policy looks on the validation split than it is: over sweeps of differently trained networks.

Every sweep is the default one of a float network trained with another seed, searched with that seed. A pick's gap is its accuracy on the
validation split less that on the test split, less the same of the float network: the test split of digits holds the handwriting of other
people, and is harder for every network. Its expected gap is the same with the accuracy that the policy is expected to have
(`search.records.expected`) in place of the one measured on the validation split.

Run: python -m benchmarks.selection [--sweeps 20]
"""

import argparse
import json
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path

import bitfront
from search.records.expected import expected_drop
from search.records.front import pick

DEFAULT = Path("examples/digits.toml")
PICKS = {"knee": "knee", "most accurate": "best-under:weight_bytes=1e12", "suggested": "suggested"}
RESULTS = Path("benchmarks/results/selection.jsonl")
Figures = dict[str, float]


def measured(seed: int) -> dict[str, Figures]:
    """Run one sweep and return the accuracy of the float network and of every pick on both splits, in points, and its KiB."""
    default = tomllib.loads(DEFAULT.read_text())
    options = default["search"] | {"task_options": {"seed": seed}, "seed": seed, "threads": 1, "record": None, "log": "none"}
    device = default["device"]
    sweep = bitfront.sweep("digits", **default["space"], **options, device=device.pop("name"), **device)
    table = sweep.front().set_index("kind", append=True)
    rows = {"float": table.xs("float", level="kind").iloc[0]}
    rows |= {name: table.loc[(sweep.pick(choice).id, "front")] for name, choice in PICKS.items()}
    columns = {"valid": "accuracy valid [%]", "test": "accuracy test [%]", "kib": "weight [KiB]"}
    run = {name: {key: float(row[column]) for key, column in columns.items()} for name, row in rows.items()}
    for name, choice in PICKS.items():
        run[name]["expected_drop"] = 100.0 * expected_drop(sweep.record, pick(sweep.record, choice))
    return run


def gaps(runs: Sequence[dict[str, Figures]], name: str) -> list[float]:
    """Return the gaps of a pick, one per sweep."""
    return [(run[name]["valid"] - run[name]["test"]) - (run["float"]["valid"] - run["float"]["test"]) for run in runs]


def expected_gaps(runs: Sequence[dict[str, Figures]], name: str) -> list[float]:
    """Return by how much more than expected a pick loses on the test split, one per sweep."""
    return [run["float"]["test"] - run[name]["test"] - run[name]["expected_drop"] for run in runs]


def table(runs: Sequence[dict[str, Figures]]) -> str:
    """Return the table of all picks: gaps, and float less the pick on the test split."""
    lines = [
        "| pick | KiB | gap: mean | gap: median | gap: largest | expected gap: mean | test drop: mean | test drop: largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in PICKS:
        seen, drops = gaps(runs, name), [run["float"]["test"] - run[name]["test"] for run in runs]
        size = statistics.mean(run[name]["kib"] for run in runs)
        of_gap = (statistics.mean(seen), statistics.median(seen), max(seen), statistics.mean(expected_gaps(runs, name)))
        figures = (*of_gap, statistics.mean(drops), max(drops))
        lines.append(f"| {name} | {size:.1f} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sweeps that are not recorded yet, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line per sweep; those that are there are not run again")
    parsed = parser.parse_args(arguments)
    runs = [json.loads(line) for line in parsed.results.read_text().splitlines()] if parsed.results.exists() else []
    for seed in range(len(runs), parsed.sweeps):
        runs.append(measured(seed))
        with parsed.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(runs[-1]) + "\n")
        print(seed, {name: round(gaps(runs[-1:], name)[0], 2) for name in PICKS}, flush=True)
    print(table(runs[: parsed.sweeps]))


if __name__ == "__main__":
    main()
