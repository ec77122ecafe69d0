"""`bitfront evaluate`: one policy, no search."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from quant_core.util.errors import InputError
from quant_core.util.reading import read_json
from quant_core.util.text import listed
from search.cli.options import AsJson, Device, Dtype
from search.cli.terminal import say, terminal
from search.config.key_value import task_options
from search.records.units import shown

if TYPE_CHECKING:
    from quant_core.qat import QatConfig
    from quant_core.spec.layer import Layer
    from quant_core.spec.policy import Policy
    from search.config.evaluation import EvaluateSection
    from search.evaluation.evaluator import Evaluator
    from search.tasks.task import Task


def evaluate_command(
    task: Annotated[str, typer.Option("--task", help='A task of `bitfront list tasks`, or "package.module:function".')],
    policy: Annotated[str, typer.Option("--policy", help="A uniform policy: weight=SPEC,activation=SPEC.")] = "",
    policy_file: Annotated[Path | None, typer.Option("--policy-file", help="A policy.json; instead of --policy.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="A task option, as key=value; may be repeated.")] = None,
    calib: Annotated[int, typer.Option("--calib", min=0, help="Calibration examples; 0: all.")] = 0,
    valid: Annotated[int, typer.Option("--valid", min=0, help="Validation examples; 0: all.")] = 0,
    test: Annotated[int, typer.Option("--test", min=0, help="Test examples; 0: all.")] = 0,
    qat: Annotated[str, typer.Option("--qat", help="Train under the policy too, by a method of `bitfront list qat-methods`.")] = "",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of --qat.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of --qat.")] = 0,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Torch threads; 0: torch's own choice.")] = 1,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Evaluate one policy: float and quantized accuracy on the validation and the test split; with --qat also after training.

    Example: `bitfront evaluate --task digits --policy "weight=int4:channel:mse,activation=int8:tensor:ema"`
    """
    _check_policy(policy, policy_file)
    import torch

    from quant_core.network.trace import trace
    from quant_core.qat import QatConfig
    from quant_core.util.devices import device_named, placed
    from search import tasks
    from search.config.evaluation import EvaluateSection
    from search.evaluation.evaluator import Evaluator
    from search.evaluation.measure import first_inputs

    if threads:
        torch.set_num_threads(threads)
    loaded = tasks.load(task, task_options(option or []))
    layers = trace(loaded.model, first_inputs(loaded))
    chosen = read_policy(policy, policy_file, layers)
    section = EvaluateSection(calib=calib, valid=valid, test=test)
    loaded = replace(loaded, model=placed(loaded.model, device_named(device, loaded.model)))
    figures = _figures(Evaluator(loaded, layers, section, dtype=dtype or "float32"), chosen, layers)
    if qat:
        figures |= _trained(loaded, layers, chosen, QatConfig(method=qat, epochs=epochs, seed=seed), section)
    typer.echo(json.dumps(figures, indent=2)) if as_json else _print_figures(figures)


def _print_figures(figures: Mapping[str, Any]) -> None:
    """Print a table of accuracies and a line about the policy."""
    table = Table("", "valid", "test", box=None)
    for name, key in (("float", "accuracy_float"), ("quantized", "accuracy"), ("trained", "accuracy_qat")):
        if f"{key}_valid" in figures:
            table.add_row(name, *(shown("accuracy", figures[f"{key}_{split}"]) for split in ("valid", "test")))
    terminal().print(table)
    bits, size, seconds = (shown(metric, figures[metric]) for metric in ("bits_weight_avg", "weight_bytes", "seconds"))
    say(f"policy {figures['id']}: {bits} bits per weight, {size}; {seconds}")


def _check_policy(text: str, path: Path | None) -> None:
    """Refuse what can be refused before a network is loaded, or trained."""
    from quant_core.spec.policy import parse_layer_policy

    if bool(text) == bool(path):
        raise InputError("give either --policy TEXT (the same for every layer) or --policy-file FILE.")
    if text:
        parse_layer_policy(text)


def read_policy(text: str, path: Path | None, layers: "Sequence[Layer]") -> "Policy":
    """Return a uniform policy from its text form, or the policy of a file.

    Raises:
        InputError: neither can be read, or the file's policy is for another network.
    """
    from quant_core.spec.policy import Policy, parse_layer_policy
    from spaces.rules import uniform_policy

    if path is None:
        return uniform_policy(layers, parse_layer_policy(text))
    try:
        policy = Policy.from_json(read_json(path))
    except InputError as error:
        raise InputError(f"cannot read the policy {path}: {error}") from None
    names = [layer.name for layer in layers]
    if sorted(policy) != sorted(names):
        missing, extra = sorted(set(names) - set(policy)), sorted(set(policy) - set(names))
        lacks, has = listed(missing) or "nothing", listed(extra) or "nothing"
        raise InputError(f"{path} is for another network: it lacks {lacks} and has {has} beside it.")
    return Policy({name: policy[name] for name in names})


def _figures(evaluator: "Evaluator", policy: "Policy", layers: "Sequence[Layer]") -> dict[str, str | float]:
    """Return the figures to print; accuracies in [0, 1], `seconds` of the quantized validation pass with quantization."""
    from quant_core.spec.size import average_bits, float_bytes, weight_bytes

    figures: dict[str, str | float] = {"id": policy.id}
    for split in ("valid", "test"):
        figures[f"accuracy_float_{split}"] = evaluator.float_metrics(split)["accuracy"]
    start = time.perf_counter()
    figures["accuracy_valid"] = (measured := evaluator.metrics(policy, "valid"))["accuracy"]
    figures["seconds"] = time.perf_counter() - start
    figures["loss_valid"] = measured["loss"]
    figures["accuracy_test"] = (measured := evaluator.metrics(policy, "test"))["accuracy"]
    figures["loss_test"] = measured["loss"]
    figures |= average_bits(layers, policy)
    return figures | {"weight_bytes": weight_bytes(layers, policy), "float_weight_bytes": float_bytes(layers)}


def _trained(
    task: "Task", layers: "Sequence[Layer]", policy: "Policy", config: "QatConfig", section: "EvaluateSection"
) -> dict[str, str | float]:
    """Train under the policy, showing every epoch; return `accuracy_ptq_*`, `accuracy_qat_*` and losses."""
    from search.evaluation.stages import qat_metrics

    console = terminal(stderr=True)

    def report(metrics: dict[str, float]) -> bool:
        console.print(
            f"epoch {metrics['epoch']:.0f}/{config.epochs}: loss {metrics['loss']:.4f}, valid {shown('accuracy', metrics['accuracy'])}"
        )
        return False

    return dict(qat_metrics(task, layers, policy, config, section=section, report=report))
