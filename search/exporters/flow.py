"""Export a picked policy: rebuild what the sweep saw, run the exporters into a temporary folder, rename it when all are verified."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from quant_core.util.devices import CPU, placed
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import resolve
from search import tracking
from search.config.files import loads
from search.exporters import EXPORTERS, Bundle, Exported, Exporter
from search.exporters.folder import REPORT, check_target, files_in, put_in_place, restore, scratch_folder
from search.exporters.kv_cache import require_kv_formats
from search.records.front import pick
from search.records.record import SweepRecord, TrialRecord
from search.sweeps.context import SweepContext, check_fingerprints, open_context
from search.sweeps.policy_file import read_policy_file, trial_of
from search.sweeps.trust import require_trust


def export(
    uri: str,
    ref: str,
    choice: str,
    formats: Sequence[str],
    out: Path,
    experiment: str | None = None,
    *,
    force: bool = False,
    allow_dequantized: bool = False,
    register: str = "",
    trust: bool = False,
    measure: bool = False,
    round_scales: bool = False,
    run: Mapping[str, object] | None = None,
) -> dict[str, Exported]:
    """Export one policy of a sweep.

    Args:
        uri, ref, experiment: which sweep.
        choice: as `search.records.front.pick` takes it, or the path of a policy file (.json), whose policy is evaluated now.
        formats: names of `EXPORTERS`, or "package.module:function".
        out: the folder to make; it appears whole or not at all.
        force: replace `out` if it exists.
        allow_dequantized: what a format cannot say may be stored as float constants of the quantized values.
        register: name in the MLflow Model Registry of the sweep's store to register the quantized network under; "" does not.
        trust: code that the record names may run, although the sweep was not started here.
        measure: measure latency beside float32 in the runtimes of the formats that have one (ONNX).
        round_scales: scales that a format stores in fewer bits are rounded to them.
        run: values of the experiment's `[run]` that take the place of the recorded ones: device, dtype, threads.

    Returns:
        format -> what was written and verified; "mlflow" of what was registered.

    Raises:
        InputError: unknown sweep, policy or format, or the sweep is not trusted, or `out` exists or cannot be written.
        BitfrontError: a check failed; nothing is left behind.
    """

    def opened() -> Bundle:
        bundle = open_bundle(uri, ref, choice, experiment, trust=trust, run=run)
        return replace(bundle, allow_dequantized=allow_dequantized, measure=measure, round_scales=round_scales)

    return write_bundle(opened, formats, out, force=force, uri=uri, register=register)


def write_bundle(
    opened: Callable[[], Bundle], formats: Sequence[str], out: Path, *, force: bool = False, uri: str = "", register: str = ""
) -> dict[str, Exported]:
    """Export the bundle that `opened` gives; it is called when formats and `out` are seen to be good. The rest is as `export` says."""
    exporters = {name: cast(Exporter, resolve(EXPORTERS, "export format", name)) for name in formats}
    restore(out)
    check_target(out, force)
    _check_name(register)
    try:
        with scratch_folder(out) as folder:
            bundle = opened()
            require_kv_formats(formats, (bundle.policy.kv,))
            done = _written(uri, bundle, exporters, register, folder)
            (folder / REPORT).write_text(json.dumps(_report(bundle, done, files_in(folder)), indent=1) + "\n", encoding="utf-8")
            put_in_place(folder, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}. Give a folder that can be written.") from error
    return done


def _written(uri: str, bundle: Bundle, exporters: Mapping[str, Exporter], register: str, folder: Path) -> dict[str, Exported]:
    """Run the exporters in `folder`; what cannot be undone, the registry, comes last."""
    done: dict[str, Exported] = {}
    for name in sorted(exporters, key=lambda name: name == "card"):  # the card describes the others
        done[name] = exporters[name](replace(bundle, written=done), folder)
    done = {name: done[name] for name in exporters}
    if register:
        from search.exporters.registry import register_policy

        done["mlflow"] = register_policy(uri, bundle, register, folder)
    return done


def open_bundle(
    uri: str, ref: str, choice: str, experiment_name: str | None, *, trust: bool = False, run: Mapping[str, object] | None = None
) -> Bundle:
    """Rebuild the network and the data that the sweep used, quantize by the picked policy (train, where the sweep did) and measure it.

    Raises:
        InputError: no such policy, or the sweep is not trusted, or weights, data or space are not those of the sweep.
        BitfrontError: the trial failed, or its network is not what was recorded.
    """
    record = tracking.read(uri, ref, experiment_name)
    require_trust(record, trust)
    in_file = choice.endswith(".json")
    trial = None if in_file else pick(record, choice)
    experiment = loads(record.experiment, f"experiment of sweep {record.name}")
    context = open_context(experiment.model_copy(update={"run": experiment.run.changed(run)}) if run else experiment)
    if trial is None:
        trial = trial_of(read_policy_file(Path(choice), context.setup.layers), f"file {Path(choice).name}", context)
    return bundle_of(record, trial, context)


def bundle_of(record: SweepRecord, trial: TrialRecord, context: SweepContext | None = None) -> Bundle:
    """Return the bundle of one trial of a recorded sweep, as `open_bundle`; `context` is what was made of its experiment already."""
    if not trial.result.ok:
        raise BitfrontError(f"trial {trial.number} {trial.result.status} ({trial.result.reason}); pick another.")
    experiment = loads(record.experiment, f"experiment of sweep {record.name}")
    context = context or open_context(experiment)
    setup, evaluator = context.setup, context.evaluator
    check_fingerprints(record, setup)
    fidelity, after = trial.result.fidelity, [other.policy for number in trial.after for other in record.trials if other.number == number]
    metrics = {f"float_{split}": evaluator.float_metrics(split) for split in ("valid", "test")}
    metrics |= {split: evaluator.metrics(trial.policy, split, fidelity, after) for split in ("valid", "test")}
    notes = _require_recorded(trial, metrics["valid"])
    network = evaluator.quantized(trial.policy, fidelity, after)
    network = replace(network, notes=(*network.notes, *notes))
    task = replace(setup.task, model=placed(setup.task.model, CPU))
    changes = evaluator.engines.changes(trial.policy)
    return Bundle(trial.policy, setup.layers, experiment, task, network, record, trial, metrics, changes=changes)


def _require_recorded(trial: TrialRecord, measured: Mapping[str, float]) -> tuple[str, ...]:
    """Compare the accuracy (or the error) measured here with the recorded one; return a note where an untrained policy gives another.

    Raises:
        BitfrontError: a reconstructed or trained policy gives another one: these are not the weights that the sweep saw.
    """
    name = "accuracy" if "accuracy" in measured else "error"
    recorded, here = trial.result.metrics[name], measured[name]
    if here == recorded:
        return ()
    figures = f"{name} on valid was recorded as {recorded:.6f}, here it is {here:.6f}"
    if trial.result.fidelity in ("reconstruct", "qat"):
        again = "training" if trial.result.fidelity == "qat" else "reconstructing"
        raise BitfrontError(
            f"{again} trial {trial.number} again gives other weights: {figures}. Export where the sweep ran: the same machine, torch "
            f"build and number of threads ({torch.get_num_threads()} here)."
        )
    return (f"{figures} (another machine, torch build or number of threads)",)


def _check_name(register: str) -> None:
    """Refuse what MLflow's registry takes for no name, before any work is done."""
    name, at, alias = register.partition("@")
    if register and (not name.strip() or (at and not alias.strip()) or set(register) & set("/:") or "@" in alias):
        raise InputError(f"register name {register!r} given; a name without '/' and ':' is needed, as in digits-4bit or digits-4bit@best.")


def _report(bundle: Bundle, done: dict[str, Exported], files: set[Path]) -> dict[str, object]:
    return {
        "sweep": bundle.record.name,
        "run_id": bundle.record.run_id,
        "trial": bundle.trial.number,
        "id": bundle.policy.id,
        "metrics": {split: dict(metrics) for split, metrics in bundle.metrics.items()},
        "cost": dict(bundle.trial.result.cost),
        "notes": bundle.network.notes,
        "files": sorted(map(str, files)),
        "formats": {
            name: {"files": exported.files, "checks": dict(exported.checks), "notes": exported.notes} for name, exported in done.items()
        },
    }
