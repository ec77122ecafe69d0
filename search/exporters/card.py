"""`README.md` and `bits.svg` beside the export: origin, cost and accuracy of the policy, and its bits per layer."""

import html
import json
import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from hw_models.loading import load_device
from hw_models.validation.run import validate
from quant_core.spec.policy import NONE
from quant_core.spec.size import float_bytes, weight_bytes
from search.exporters import Bundle, Exported
from search.exporters.card_files import date_line, files_section, licence_line, loading_section, measured_section
from search.records.units import label, shown, title_of
from search.tasks.batches import size_of

FILE, PICTURE = "README.md", "bits.svg"
_VERSIONS = ("bitfront", "torch", "numpy", "optuna", "mlflow", "onnx", "onnxruntime")
_HEAD, _LINE, _WIDTH, _GAP, _MOST = 20, 16, 160, 48, 16
_FONT = 'font-size="11" font-family="monospace"'
_COLORS = {"weight": "#1f77b4", "activation": "#ff7f0e"}


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the model card and its picture."""
    parts = [_head(bundle), _data(bundle), _accuracy(bundle), _cost(bundle), files_section(bundle, folder), loading_section(bundle)]
    parts = [part for part in (*parts, *_runtimes(bundle), measured_section(bundle), _layers(bundle), _origin(bundle)) if part]
    if bundle.network.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in bundle.network.notes))
    (folder / FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (folder / PICTURE).write_text(_picture(bundle), encoding="utf-8")
    return Exported((FILE, PICTURE), {}, bundle.network.notes)


def _head(bundle: Bundle) -> str:
    small, large = weight_bytes(bundle.layers, bundle.policy), float_bytes(bundle.layers)
    share = f"{small:,.0f} bytes of weights, {small / large:.1%} of the {large:,.0f} in float32"
    return f"# Policy {bundle.policy.id} for {bundle.experiment.task.name}\n\n{share}. {_fidelity(bundle)} {date_line()}"


def _fidelity(bundle: Bundle) -> str:
    if bundle.trial.result.fidelity != "qat":
        how = {"adaround": ", weights rounded by AdaRound", "reconstruct": ", blocks reconstructed on the calibration data"}
        return f"Quantized without training{how.get(bundle.trial.result.fidelity, '')}."
    training, start = bundle.experiment.evaluate.training, bundle.trial.after
    begun = f"the weights of trial {start[-1]}" if start else "the float weights"
    return f"Trained under the policy by `{training.method}` for {training.epochs} epochs, from {begun}."


def _data(bundle: Bundle) -> str:
    task = bundle.experiment.task
    options = f" with options `{json.dumps(task.options, default=str)}`" if task.options else ""
    splits = ", ".join(f"{name} {sum(size_of(*batch) for batch in getattr(bundle.task, name)):,}" for name in ("calib", "valid", "test"))
    used = bundle.experiment.evaluate
    taken = ", ".join(f"{name} {getattr(used, name):,}" for name in ("calib", "valid", "test") if getattr(used, name))
    network = f"{type(bundle.task.model).__name__}, {len(bundle.layers)} layers with weights"
    examples = f"Examples: {splits}{f', of which were used: {taken}' if taken else ''}."
    return f"## Task and data\n\n`{task.name}`{options}: {network}. {examples}\n\n{licence_line(task.name)}"


def _accuracy(bundle: Bundle) -> str:
    if bundle.record.metrics:
        return _metrics(bundle)
    rows = []
    for split in ("valid", "test"):
        before, after = bundle.metrics[f"float_{split}"], bundle.metrics[split]
        accuracies = " | ".join(shown("accuracy", figures["accuracy"]) for figures in (before, after))
        rows.append(f"| {split} | {accuracies} | {before['loss']:.4f} | {after['loss']:.4f} |")
    head = "| split | float accuracy | accuracy | float loss | loss |\n|---|---|---|---|---|\n"
    return "## Accuracy\n\nThe search saw the validation split only.\n\n" + head + "\n".join(rows)


def _metrics(bundle: Bundle) -> str:
    """Return the figures of the task's metrics and the loss, with units and the better direction."""
    infos = bundle.record.metrics
    names = [*(info.name for info in infos), "loss"]
    rows = [
        f"| {label(name, infos)} | {split} | {shown(name, bundle.metrics[f'float_{split}'][name], infos)} "
        f"| {shown(name, bundle.metrics[split][name], infos)} |"
        for name in names
        for split in ("valid", "test")
    ]
    head = "| metric | split | float | quantized |\n|---|---|---|---|\n"
    return "## Metrics\n\nThe search saw the validation split only.\n\n" + head + "\n".join(rows)


def _cost(bundle: Bundle) -> str:
    device = bundle.experiment.device.name
    error = load_device(device).latency_error
    beside = {"latency_s": f" ({error})"} if error else {}
    rows = [
        f"| {title_of(metric)} | {shown(metric, value)}{beside.get(metric, '')} |" for metric, value in bundle.trial.result.cost.items()
    ]
    table = f"## Cost on {device}\n\n| metric | modelled |\n|---|---|\n" + "\n".join(rows)
    checks = [
        f"- {check.name}: {check.n} figures, error {check.mean_percent:.2f} % on average, {check.max_percent:.1f} % at most"
        f"{'' if math.isnan(check.rank) else f', rank correlation {check.rank:.3f}'} ({check.source})"
        for check in validate(load_device(device))
    ]
    if not checks:
        return f"{table}\n\nThe model of this device was held against no published or measured figure: use it to compare, not to predict."
    return f"{table}\n\nHow far the model of this device is off published or measured figures:\n\n" + "\n".join(checks)


def _runtimes(bundle: Bundle) -> list[str]:
    """Return the section of what runtimes do with the files: kernels, types, options, latency where it was measured."""
    rows = [
        f"- `{', '.join(exported.files)}` in {_runtime(exported.checks)}: {'; '.join(_runtime_facts(exported.checks))}"
        for exported in bundle.written.values()
        if _runtime(exported.checks)
    ]
    return ["## In their runtimes\n\n" + "\n".join(rows)] if rows else []


def _runtime(checks: Mapping[str, float | str]) -> str:
    """Return the runtime that ran a file, with its version; "" where none did."""
    if "onnxruntime_options" in checks:
        return f"onnxruntime {metadata.version('onnxruntime')}"
    return str(checks.get("runtime", ""))


def _runtime_facts(checks: Mapping[str, float | str]) -> list[str]:
    """Return the facts of one file, in words."""
    facts = [f"{checks['file_bytes']:,} bytes", f"weights are stored as {checks['stored_types']}"]
    for key, name in (("integer_convolutions", "convolutions"), ("integer_linears", "linear layers")):
        facts += [f"{checks[key]} {name} are computed by integers"] if key in checks else []
    facts.append(f"options: {checks.get('onnxruntime_options', checks.get('runtime_options', 'default'))}")
    if "overflow_without_vnni" in checks and "LP_TRANSFORMS_MODE" not in str(checks["runtime_options"]):
        few = f"{checks['overflow_without_vnni']} int8 layers may overflow on processors without VNNI"
        facts.append(f"{few}: set LP_TRANSFORMS_MODE=NO there")
    facts.append(f"top-1 agrees with the simulation on {checks['top1_agreement']:.2%} of the test split, run in a fresh process")
    if "verdict" in checks:
        taken, plain = (float(checks[key]) * 1e3 for key in ("latency_s", "float32_latency_s"))
        facts.append(f"one example on one thread takes {taken:.3g} ms, float32 {plain:.3g} ms: {checks['verdict']}")
    return facts


def _layers(bundle: Bundle) -> str:
    rows = [
        f"| {layer.name} | {layer.kind} | {layer.weights:,} | `{used.weight}` | `{used.activation}` | {'█' * min(used.weight.bits, 32)} |"
        for layer in bundle.layers
        for used in (bundle.policy[layer.name],)
    ]
    under = (
        f"Network: `{bundle.policy.transform}` before it is quantized ({bundle.changes}).\n\n" if bundle.policy.transform != NONE else ""
    )
    under += "" if bundle.policy.kv.is_float else f"KV cache: `{bundle.policy.kv}`, simulated.\n\n"
    head = "| layer | kind | weights | weight | input activation | weight bits |\n|---|---|---|---|---|---|\n"
    return f"## Layers\n\n{under}![bits of every layer]({PICTURE})\n\n" + head + "\n".join(rows)


def _origin(bundle: Bundle) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _VERSIONS)
    search, trial = bundle.experiment.search, bundle.trial
    origin, pick = (f"trial {trial.number}", str(trial.number)) if trial.number >= 0 else (trial.origin, "policy.json")
    return (
        f"## Origin\n\nSweep `{bundle.record.name}` (MLflow run {bundle.record.run_id}), {origin}; searcher "
        f"`{search.searcher}`, seed {search.seed}, {search.trials} trials. Versions: {versions}.\n\n"
        f"    bitfront export {bundle.record.name} --pick {pick} --out DIR --uri {bundle.experiment.track.uri}\n\n"
        f"The experiment, for `bitfront sweep FILE`:\n\n```toml\n{bundle.record.experiment.strip()}\n```"
    )


def _picture(bundle: Bundle) -> str:
    """Return a line per layer, in network order: its name, and bars of the bits of weight and input; float is drawn at 16 and hollow."""
    left = 8 + 7 * max(len(layer.name) for layer in bundle.layers)
    parts = []
    for i, layer in enumerate(bundle.layers):
        choice, top = bundle.policy[layer.name], _HEAD + i * _LINE
        parts.append(f'<text x="0" y="{top + 11}" {_FONT}>{html.escape(layer.name)}</text>')
        for slot, spec, at in (("weight", choice.weight, left), ("activation", choice.activation, left + _WIDTH + _GAP)):
            width, fill = min(spec.bits, _MOST) * _WIDTH / _MOST, "none" if spec.is_float else _COLORS[slot]
            title = f"<title>{html.escape(layer.name)}: {slot} {spec}</title>"
            parts.append(f'<rect x="{at}" y="{top}" width="{width:g}" height="12" fill="{fill}" stroke="{_COLORS[slot]}">{title}</rect>')
            said = "float" if spec.is_float else str(spec.bits)
            parts.append(f'<text x="{at + width + 4:g}" y="{top + 11}" {_FONT}>{said}</text>')
    heads = (("bits of the weight", "weight", left), ("bits of the input", "activation", left + _WIDTH + _GAP))
    parts += [f'<text x="{at}" y="12" fill="{_COLORS[slot]}" {_FONT}>{text}</text>' for text, slot, at in heads]
    size = f'width="{left + 2 * (_WIDTH + _GAP)}" height="{_HEAD + len(bundle.layers) * _LINE}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
