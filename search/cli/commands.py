"""The commands by name: where each lives and its sentence in the list, so that `--help` and `--version` import none of them."""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS = {
    "compress": (
        "compress:compress_command",
        "Compress a network for a device or a runtime: sweep, choose the smallest policy that loses little, export, replay, measure.",
    ),
    "sweep": (
        "sweep:sweep_command",
        "Run a sweep: uniform policies first, then the searcher's. Ctrl-C stops after the running trial; `bitfront resume` continues.",
    ),
    "resume": (
        "sweep:resume_command",
        "Continue a stopped or killed sweep to its trial count, without repeating or losing a finished trial.",
    ),
    "sweeps": ("sweeps:sweeps_command", "List the recorded sweeps with what they are about and the best policy of each front."),
    "front": ("report:front_command", "Show the Pareto front of a sweep, also while it runs."),
    "show": ("report:show_command", "Show layer by layer what a policy quantizes, and how."),
    "compare": (
        "report:compare_command",
        "Compare the fronts of sweeps: hypervolume, dominated share, best accuracy within budgets, layers.",
    ),
    "study": (
        "study:study_command",
        "Write a sweep as an Optuna study: objectives, limits as constraints, the policy as parameters, every trial that ended.",
    ),
    "repair": (
        "repair:repair_command",
        "Send the rest of a journal, set the front's tags right, and write a sweep anew whose store was lost.",
    ),
    "ui": (
        "report:ui_command",
        "Start MLflow's web interface on the sweeps' store, on this machine only, and print where the fronts stand side by side.",
    ),
    "export": ("export:export_command", "Export one policy of a sweep, verified."),
    "apply": ("export:apply_command", "Quantize a task's network by a policy file and evaluate it."),
    "evaluate": (
        "evaluate:evaluate_command",
        "Evaluate one policy: float and quantized accuracy on the validation and the test split; with --reconstruct and --qat after these.",
    ),
    "agent": ("agent:agent_app", "Save the HAQ agent of a sweep, with all it learned; another sweep starts with it."),
    "solve": ("solve:solve_command", "Solve for the policy of the least summed sensitivity under other budgets; nothing is scored again."),
    "init": ("catalog:init_command", "Write a commented experiment file; with --from also a task file for a network of yours."),
    "list": ("catalog:list_command", "List the families, or the known members of one."),
    "inspect": (
        "inspect:inspect_command",
        "Print what a packed file holds; or the layers of an experiment's network, their choices, and those that they share.",
    ),
    "devices": ("devices:devices_app", "List device files, show one, check their models against published figures."),
    "cost": (
        "devices:cost_command",
        "Cost one policy on a device, layer by layer; exit code 1 where it breaks a hard limit of the device.",
    ),
    "profile": (
        "profile:profile_command",
        "Measure each distinct layer shape on this machine: onnxruntime in float32, 8 bit and packed weights, and our 1-bit kernel.",
    ),
    "measure": (
        "measure:measure_command",
        "Time picked policies against float32 in a real runtime, and write the times to the sweep's record; its page and cards show them.",
    ),
    "probe": (
        "probe:probe_command",
        "Find out which kernels the installed runtime has: a small network is exported in 2 to 8 bits, run, and its kernels are read back.",
    ),
}
"""Command -> the function, or group of functions, below `search.cli`, and the first sentence of its docstring."""


def later() -> None:
    """Stand in for a command until it is called."""


class Commands(TyperGroup):
    """A group whose commands are imported when they are called; those that it lists have a name and a sentence."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command itself and the arguments that are left, as click asks for them."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(str(name)) if command is not None else None, rest


def load(name: str) -> Any:
    """Return the command of a name, imported."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(f"search.cli.{module}"), attribute)
    app = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    app.callback()(later)  # with a callback it is a group, also of one command
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)
    return getattr(get_command(app), "commands")[name]  # noqa: B009 - typer says no more than that it is a command
