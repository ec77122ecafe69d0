"""`README.md` beside the export: a model card in Markdown: where the policy comes from, what it costs, how well it does."""

from importlib import metadata
from pathlib import Path

from quant_core.size import float_bytes, weight_bytes
from search.exporters import Bundle, Exported

FILE = "README.md"
_VERSIONS = ("bitfront", "torch", "numpy", "optuna", "mlflow")


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the model card."""
    parts = (_head(bundle), _accuracy(bundle), _cost(bundle), _layers(bundle), _origin(bundle))
    (folder / FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Exported((FILE,), {})


def _head(bundle: Bundle) -> str:
    small, large = weight_bytes(bundle.layers, bundle.policy), float_bytes(bundle.layers)
    share = f"{small:,.0f} bytes of weights, {small / large:.1%} of the {large:,.0f} in float32"
    return f"# Policy {bundle.policy.id} for {bundle.experiment.task.name}\n\n{share}."


def _accuracy(bundle: Bundle) -> str:
    rows = [
        f"| {split} | {bundle.metrics[f'float_{split}']['accuracy']:.2%} | {bundle.metrics[split]['accuracy']:.2%} "
        f"| {bundle.metrics[f'float_{split}']['loss']:.4f} | {bundle.metrics[split]['loss']:.4f} |"
        for split in ("valid", "test")
    ]
    head = "| split | float accuracy | accuracy | float loss | loss |\n|---|---|---|---|---|\n"
    return "## Accuracy\n\nThe search saw the validation split only.\n\n" + head + "\n".join(rows)


def _cost(bundle: Bundle) -> str:
    rows = [f"| {metric} | {value:.6g} |" for metric, value in bundle.trial.result.cost.items()]
    return f"## Cost on {bundle.experiment.device.name}\n\n| metric | modelled |\n|---|---|\n" + "\n".join(rows)


def _layers(bundle: Bundle) -> str:
    rows = [
        f"| {layer.name} | {layer.kind} | {layer.weights:,} | `{each.weight}` | `{each.activation}` | {'█' * min(each.weight.bits, 32)} |"
        for layer in bundle.layers
        for each in (bundle.policy[layer.name],)
    ]
    return "## Layers\n\n| layer | kind | weights | weight | input activation | weight bits |\n|---|---|---|---|---|---|\n" + "\n".join(
        rows
    )


def _origin(bundle: Bundle) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _VERSIONS)
    search = bundle.experiment.search
    return (
        f"## Origin\n\nSweep `{bundle.record.name}` (MLflow run {bundle.record.run_id}), trial {bundle.trial.number}; searcher "
        f"`{search.searcher}`, seed {search.seed}, {search.trials} trials. Versions: {versions}.\n\n"
        f"    bitfront export {bundle.record.name} --pick {bundle.policy.id} --out DIR"
    )
