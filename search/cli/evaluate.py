"""`bitfront evaluate`: one policy, no search."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from quant_core.spec.kv_cache import KV_BYTES
from quant_core.util.errors import InputError
from quant_core.util.reading import read_json
from search.cli.options import AsJson, CalibFrom, Device, Dtype
from search.cli.terminal import say, styled, terminal
from search.config.key_value import task_options
from search.records.units import shown

if TYPE_CHECKING:
    from quant_core.qat import QatConfig
    from quant_core.reconstruct.results import Progress
    from quant_core.spec.layer import Layer
    from quant_core.spec.policy import Policy
    from search.config.evaluation import EvaluateSection
    from search.evaluation.evaluator import Evaluator
    from search.tasks.metrics.info import MetricInfo
    from search.tasks.task import Task


def evaluate_command(
    task: Annotated[str, typer.Option("--task", help='A task of `bitfront list tasks`, or "package.module:function".')],
    policy: Annotated[str, typer.Option("--policy", help="A uniform policy: weight=SPEC,activation=SPEC.")] = "",
    policy_file: Annotated[Path | None, typer.Option("--policy-file", help="A policy.json; instead of --policy.")] = None,
    network: Annotated[str, typer.Option("--network", help="With --policy: none, smooth or rotate; see docs/transforms.md.")] = "none",
    kv: Annotated[str, typer.Option("--kv", help="With --policy: the format of keys and values; see docs/kv-cache.md.")] = "float",
    option: Annotated[list[str] | None, typer.Option("--option", help="A task option, as key=value; may be repeated.")] = None,
    calib: Annotated[int, typer.Option("--calib", min=0, help="Calibration examples; 0: all.")] = 0,
    calib_from: CalibFrom = "data",
    valid: Annotated[int, typer.Option("--valid", min=0, help="Validation examples; 0: all.")] = 0,
    test: Annotated[int, typer.Option("--test", min=0, help="Test examples; 0: all.")] = 0,
    qat: Annotated[str, typer.Option("--qat", help="Train under the policy too, by a method of `bitfront list qat-methods`.")] = "",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of --qat.")] = 5,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Reconstruct the policy's blocks too; see docs/reconstruct.md.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of --reconstruct, per block.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of --qat and --reconstruct.")] = 0,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Torch threads; 0: torch's own choice.")] = 1,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Evaluate one policy: float and quantized accuracy on the validation and the test split; with --reconstruct and --qat after these.

    Example: `bitfront evaluate --task digits --policy "weight=int4:channel:mse,activation=int8:tensor:ema"`
    """
    uniform = _check_policy(policy, policy_file, network, kv)
    import torch

    from quant_core.qat import QatConfig
    from search.config.evaluation import EvaluateSection
    from search.evaluation.evaluator import Evaluator

    if threads:
        torch.set_num_threads(threads)
    section = EvaluateSection(calib=calib, calib_from=calib_from, valid=valid, test=test, reconstruct={"steps": steps, "seed": seed})
    loaded = _loaded(task, option or [], section, device)
    layers, chosen = _layers_and_policy(loaded, policy_file, uniform)
    evaluator = Evaluator(loaded, layers, section, transforms=(chosen.transform,), dtype=dtype or "float32")
    figures = _figures(evaluator, chosen, layers, loaded.figure_names)
    if reconstruct:
        figures |= _reconstructed(evaluator, chosen, loaded.figure_names)
    if qat:
        figures |= _trained(loaded, layers, chosen, QatConfig(method=qat, epochs=epochs, seed=seed), section)
    typer.echo(json.dumps(figures, indent=2)) if as_json else _print_figures(figures, loaded.infos, loaded.figure_names[:-1])


def _loaded(name: str, options: Sequence[str], section: "EvaluateSection", device: str) -> "Task":
    """Return the task with the splits that the section asks for, its network on the device."""
    from quant_core.util.devices import device_named, placed
    from search import tasks
    from search.tasks.stream import sized

    task = sized(tasks.load(name, task_options(options)), section)
    return replace(task, model=placed(task.model, device_named(device, task.model)))


def _layers_and_policy(task: "Task", path: Path | None, uniform: "Policy | None") -> "tuple[tuple[Layer, ...], Policy]":
    """Return the layers of a task's network, as the policy's transform of it leaves them, and the policy."""
    from quant_core.network.trace import trace
    from quant_core.transforms.apply import untied
    from search.evaluation.measure import traced_inputs

    inputs = traced_inputs(task)
    layers = trace(task.model, inputs[0], inputs, _named(task, path))
    chosen = read_policy(path, layers, uniform)
    return untied(layers, task.model, (chosen.transform,), inputs), chosen


def _print_figures(figures: Mapping[str, Any], infos: "Sequence[MetricInfo]", metrics: Sequence[str]) -> None:
    """Print a table of the metrics and a line about the policy."""
    table = Table("", "valid", "test", box=None)
    for metric in metrics:
        head = "" if metric == "accuracy" else f" {metric}"
        for name, key in (
            ("float", f"{metric}_float"),
            ("quantized", metric),
            ("reconstructed", f"{metric}_reconstruct"),
            ("trained", f"{metric}_qat"),
        ):
            if f"{key}_valid" in figures:
                table.add_row(name + head, *(shown(metric, figures[f"{key}_{split}"], infos) for split in ("valid", "test")))
    terminal().print(table)
    bits, size, seconds = (shown(metric, figures[metric]) for metric in ("bits_weight_avg", "weight_bytes", "seconds"))
    cached = f", KV cache of {figures[KV_BYTES]:.6g} bytes per token" if KV_BYTES in figures else ""
    say(f"policy {figures['id']}: {bits} bits per weight, {size}{cached}; {seconds}")


def _check_policy(text: str, path: Path | None, network: str, kv: str) -> "Policy | None":
    """Refuse what can be refused before a network is loaded, or trained; return a policy of one layer that says it for all."""
    from quant_core.spec.policy import NONE, Policy, parse_layer_policy
    from quant_core.spec.quant_spec import parse

    if bool(text) == bool(path):
        raise InputError("give either --policy TEXT (the same for every layer) or --policy-file FILE.")
    if path and network != NONE:
        raise InputError("--network was given with --policy-file, which says it by its 'transform'; give it with --policy.")
    if path and kv != "float":
        raise InputError("--kv was given with --policy-file, which says it by its 'kv'; give it with --policy.")
    return Policy({"": parse_layer_policy(text)}, network, parse(kv)) if text else None


def _named(task: "Task", path: Path | None) -> tuple[str, ...]:
    """Return the parameters that the policy of a file names as layers; `read_policy` says what is wrong with the file."""
    from quant_core.network.sites import named_parameters
    from quant_core.spec.policy import Policy

    try:
        return () if path is None else named_parameters(task.model, Policy.from_json(read_json(path)))
    except InputError:
        return ()


def read_policy(path: Path | None, layers: "Sequence[Layer]", uniform: "Policy | None") -> "Policy":
    """Return the policy of a file, or that of the one layer of `uniform` for all layers.

    Raises:
        InputError: the file cannot be read, or its policy is for another network.
    """
    from search.sweeps.policy_file import read_policy_file
    from spaces.rules import uniform_policy

    if uniform is not None:
        return uniform_policy(layers, uniform[""], uniform.transform, uniform.kv)
    assert path is not None
    return read_policy_file(path, layers)


def _figures(evaluator: "Evaluator", policy: "Policy", layers: "Sequence[Layer]", names: Sequence[str]) -> dict[str, str | float]:
    """Return the figures to print; accuracies in [0, 1], `seconds` of the quantized validation pass with quantization."""
    from quant_core.spec.size import average_bits, float_bytes, weight_bytes
    from search.evaluation.kv_cache import kv_figures

    figures: dict[str, str | float] = {"id": policy.id}
    for split in ("valid", "test"):
        measured = evaluator.float_metrics(split)
        figures |= {f"{name}_float_{split}": measured[name] for name in names if name != "loss"}
    start = time.perf_counter()
    measured = evaluator.metrics(policy, "valid")
    seconds = time.perf_counter() - start
    figures |= {f"{name}_valid": measured[name] for name in names} | {"seconds": seconds}
    measured = evaluator.metrics(policy, "test")
    figures |= {f"{name}_test": measured[name] for name in names}
    figures |= average_bits(layers, policy) | kv_figures(evaluator.engines.engine(policy), policy)
    return figures | {"weight_bytes": weight_bytes(layers, policy), "float_weight_bytes": float_bytes(layers)}


def _reconstructed(evaluator: "Evaluator", policy: "Policy", names: Sequence[str]) -> dict[str, str | float]:
    """Reconstruct the policy's blocks, showing every one; return `accuracy_reconstruct_*` and losses, blocks, seconds, and a note."""
    console = terminal(stderr=True)

    def report(progress: "Progress", count: int) -> None:
        if progress.blocks:
            last = progress.whole or progress.blocks[-1]
            text = f"{len(progress.blocks)} reconstructed ({count} blocks): {', '.join(last.layers)}"
            text = "scales, biases and input steps of all layers" if progress.whole else text
            console.print(styled(f"{text}: error {last.start:.4g} to {last.end:.4g}", ""), soft_wrap=True)

    start = time.perf_counter()
    result = evaluator.reconstructed(policy, report)
    figures: dict[str, str | float] = {"seconds_reconstruct": time.perf_counter() - start, "blocks_reconstructed": len(result.blocks)}
    for split in ("valid", "test"):
        measured = evaluator.metrics(policy, split, "reconstruct")
        figures |= {f"{name}_reconstruct_{split}": measured[name] for name in names}
    if result.note:
        console.print(styled(result.note, ""), soft_wrap=True)
        figures["note_reconstruct"] = result.note
    return figures


def _trained(
    task: "Task", layers: "Sequence[Layer]", policy: "Policy", config: "QatConfig", section: "EvaluateSection"
) -> dict[str, str | float]:
    """Train under the policy, showing every epoch; return `accuracy_ptq_*`, `accuracy_qat_*` and losses."""
    from search.evaluation.stages import qat_metrics

    console, name = terminal(stderr=True), task.figure_names[0]

    def report(metrics: dict[str, float]) -> bool:
        console.print(
            f"epoch {metrics['epoch']:.0f}/{config.epochs}: loss {metrics['loss']:.4f}, valid {shown(name, metrics[name], task.infos)}"
        )
        return False

    return dict(qat_metrics(task, layers, policy, config, section=section, report=report))
