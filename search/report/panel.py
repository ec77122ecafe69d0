"""What the panel of a page shows of a policy: its layers, its figures, the commands that export and evaluate it, its sweep's MLflow run."""

import json
import shlex
from collections.abc import Mapping, Sequence

from quant_core.util.errors import InputError
from quant_core.util.reading import parse_toml
from search.records.record import SweepRecord, TrialRecord
from search.report.words import in_words, judged

LARGEST = 200_000
"""Entries of layers that a page holds: of many policies of a large network the first ones have a panel."""


def panel_data(sweeps: Sequence[tuple[SweepRecord, Sequence[TrialRecord]]], *, keyed: bool = False) -> str:
    """Return the data of the panel as an element of a page.

    Args:
        sweeps: sweep, and the trials that have a panel.
        keyed: the key of a policy is `position of its sweep:trial`, for several sweeps, and not the trial's number.
    """
    specs: dict[str, int] = {}
    policies: dict[str, Mapping[str, object]] = {}
    layers: list[str] = []
    numbers: dict[str, int] = {}
    for position, (sweep, trials) in enumerate(sweeps):
        for trial in trials:
            if len(trial.policy) * (len(policies) + 1) > LARGEST:
                break
            for layer in trial.policy:
                if layer not in numbers:
                    numbers[layer] = len(layers)
                    layers.append(layer)
            codes = [
                [numbers[layer], *(specs.setdefault(str(spec), len(specs)) for spec in (choice.weight, choice.activation))]
                for layer, choice in trial.policy.items()
            ]
            policies[f"{position}:{trial.number}" if keyed else str(trial.number)] = {
                "title": f"{sweep.name}, trial {trial.number}: {trial.policy.id}",
                "words": f"By {trial.origin}, {trial.result.fidelity}: {in_words(trial.policy)}.",
                "figures": judged(sweep, trial),
                "commands": commands(sweep, trial),
                "run": sweep.run_id,
                "codes": codes,
            }
    text = json.dumps({"specs": list(specs), "layers": layers, "policies": policies}).replace("<", "\\u003c")
    return f"<script type='application/json' id='policies'>{text}</script>"


def commands(sweep: SweepRecord, trial: TrialRecord) -> list[tuple[str, str]]:
    """Return the commands for a policy, each with its purpose."""
    name, folder = shlex.quote(sweep.name), shlex.quote(f"out/{trial.policy.id}")
    return [
        ("Export it:", f"bitfront export {name} --pick {trial.policy.id} --out {folder}"),
        ("Evaluate what was exported:", f"bitfront apply {folder}/policy.json --task {_task(sweep)}"),
        ("Show it in a terminal:", f"bitfront show {name} {trial.policy.id}"),
    ]


def _task(sweep: SweepRecord) -> str:
    """Return the task's options for the command line, from the experiment that the record holds."""
    try:
        section = parse_toml(sweep.experiment, "experiment").get("task", {})
        options = section.get("options", {})
        pairs = "".join(f" --option {shlex.quote(f'{key}={value}')}" for key, value in options.items())
        return shlex.quote(str(section["name"])) + pairs
    except (InputError, AttributeError, KeyError):
        return "TASK"
