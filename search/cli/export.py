"""`bitfront export` and `bitfront apply`: take a policy out of a sweep, and use one anywhere."""

from pathlib import Path
from typing import Annotated

import typer

from search.cli.evaluate import evaluate_command
from search.cli.options import DEFAULT_URI, AsJson, Device, Dtype, ExperimentName, SweepName, Threads, Trust, Uri, run_changes
from search.cli.terminal import terminal
from search.records.units import shown
from search.tracking.reading import LATEST


def export_command(
    out: Annotated[Path, typer.Option("--out", help="The folder to make; it appears whole or not at all.")],
    sweep: SweepName = LATEST,
    pick: Annotated[str, typer.Option("--pick", help="knee, best-under:METRIC=LIMIT, a policy id or a trial number.")] = "knee",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="policy, safetensors, onnx, onnx-matmulnbits, openvino, c-array, torchao, vllm or card; repeatable. policy, card always.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    allow_dequantized: Annotated[
        bool, typer.Option("--allow-dequantized", help="Store weights that a format cannot hold as float constants of their values.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the latency of ONNX and OpenVINO files beside float32: one thread, one example.")
    ] = False,
    register: Annotated[str, typer.Option("--register", help="Register the quantized network under this name in MLflow's registry.")] = "",
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

    wanted = tuple(dict.fromkeys(("policy", "card", *(formats or ()))))
    console = terminal(soft_wrap=True)
    options = {"force": force, "allow_dequantized": allow_dequantized, "trust": trust, "measure": measure}
    run = run_changes(device, dtype, threads)
    written = export(uri, sweep, pick, wanted, out, mlflow_experiment, register=register, run=run, **options)
    for name, done in written.items():
        checks = ", ".join(
            f"{key} {value}" if isinstance(value, str) else f"{key} {shown(key, value)}" for key, value in done.checks.items()
        )
        console.print(f"{name}: {', '.join(str(out / file) for file in done.files)}{f' ({checks})' if checks else ''}")
        for note in done.notes:
            console.print(f"  note: {note}")


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
