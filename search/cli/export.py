"""`bitfront export` and `bitfront apply`: take a policy out of a sweep, and use one anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quant_core.util.errors import InputError
from search.cli.completion import policy_names
from search.cli.evaluate import evaluate_command
from search.cli.options import PICK_HELP, AsJson, Device, Dtype, ExperimentName, SweepName, Threads, Trust, Uri, run_changes
from search.cli.terminal import terminal
from search.config.store import DEFAULT_URI
from search.records.selection import SUGGESTED
from search.records.units import shown
from search.tracking.reading import LATEST

if TYPE_CHECKING:
    from search.exporters import Exported


def export_command(
    out: Annotated[Path, typer.Option("--out", help="The folder to make; it appears whole or not at all.")],
    sweep: SweepName = LATEST,
    pick: Annotated[str, typer.Option("--pick", help=f"{PICK_HELP} A file.json: its policy.", autocompletion=policy_names)] = SUGGESTED,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="Pick the smallest policy that loses at most so many points; in place of --pick.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="policy, safetensors, onnx, onnx-matmulnbits, openvino, executorch, litert, c-array, torchao, gguf, compressed-tensors, "
            "vllm or card; may be repeated. policy and card always.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    allow_dequantized: Annotated[
        bool, typer.Option("--allow-dequantized", help="Store weights that a format cannot hold as float constants of their values.")
    ] = False,
    round_scales: Annotated[
        bool, typer.Option("--round-scales", help="Round float32 scales to the float16 in which GGUF stores them, and say by how much.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure ONNX, OpenVINO, ExecuTorch and LiteRT files beside float32: one thread, one example.")
    ] = False,
    register: Annotated[str, typer.Option("--register", help="Register it in MLflow's registry as NAME or NAME@ALIAS.")] = "",
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
    trust: Trust = False,
    device: Device = "",
    dtype: Dtype = "",
    threads: Threads = None,
) -> None:
    """Export one policy of a sweep, verified.

    Example: `bitfront export digits-auto-1124-101500 --pick best-under:latency_s=0.001 -f onnx -f safetensors --out out/digits`
    """
    from search.exporters.flow import export

    choice = _choice(pick, max_drop)
    wanted = tuple(dict.fromkeys(("policy", "card", *(formats or ()))))
    options = {"force": force, "allow_dequantized": allow_dequantized, "trust": trust, "measure": measure, "round_scales": round_scales}
    run = run_changes(device, dtype, threads)
    written = export(uri, sweep, choice, wanted, out, mlflow_experiment, register=register, run=run, **options)
    _print_written(written, out)


def _print_written(written: "Mapping[str, Exported]", out: Path) -> None:
    """Print a line per format with its files and checks, and the notes under it."""
    console = terminal(soft_wrap=True)
    for name, done in written.items():
        checks = ", ".join(
            f"{key} {value}" if isinstance(value, str) else f"{key} {shown(key, value)}" for key, value in done.checks.items()
        )
        console.print(f"{name}: {', '.join(str(out / file) for file in done.files)}{f' ({checks})' if checks else ''}")
        for note in done.notes:
            console.print(f"  note: {note}")


def _choice(pick: str, max_drop: float | None) -> str:
    if max_drop is not None and pick != SUGGESTED:
        raise InputError(f"--pick {pick} and --max-drop {max_drop:g} given; give one of them.")
    return pick if max_drop is None else f"max-drop={max_drop:g}"


def apply_command(
    policy: Annotated[Path, typer.Argument(help="A policy.json, as `bitfront export` writes it.")],
    task: Annotated[str, typer.Option("--task", help='A task of `bitfront list tasks`, or "package.module:function".')],
    option: Annotated[list[str] | None, typer.Option("--option", help="A task option, as key=value; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Quantize a task's network by a policy file and evaluate it.

    Example: `bitfront apply out/digits/policy.json --task digits`
    """
    if not policy.exists():
        from search.exporters.folder import restore

        restore(policy.parent)
    evaluate_command(task=task, policy_file=policy, option=option, as_json=as_json)
