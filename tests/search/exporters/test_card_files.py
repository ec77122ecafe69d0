"""The card's sections on files, loading, licence and measured times."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from search.exporters import Bundle, Exported
from search.exporters.card_files import files_section, licence_line, loading_section, measured_section

CHECKS = {"file_bytes": 1500, "modelled_weight_bytes": 800.0, "carrier_bytes": 150.0}


def made(**written: Exported) -> Bundle:
    network = SimpleNamespace(example=torch.zeros(2, 3))
    task = SimpleNamespace(name="digits", options={})
    timing = {"runtime": "openvino", "version": "1", "threads": 1, "latency_s": 0.001, "float32_latency_s": 0.002, "ratio": 0.5}
    parts: Any = SimpleNamespace(
        written=written, network=network, experiment=SimpleNamespace(task=task), policy=SimpleNamespace(id="abc"),
        record=SimpleNamespace(measured={4: (timing,)}), trial=SimpleNamespace(number=4),
    )  # fmt: skip
    return cast(Bundle, parts)


def test_every_file_has_its_size_and_the_reason_of_the_difference(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x" * 1500)
    text = files_section(made(onnx=Exported(("model.onnx",), CHECKS)), tmp_path)
    reason = "800 modelled; +150 for codes and scales in wider types; +550 for biases, norms, filled-up bytes and the graph"
    assert f"| `model.onnx` | onnx | 1,500 | {reason} |" in text
    assert files_section(made(), tmp_path) == ""


def test_five_lines_load_a_file_with_the_options_that_it_needs() -> None:
    onnx = Exported(("model.onnx",), {"onnxruntime_options": "session.disable_quant_qdq=1"})
    openvino = Exported(("model.xml", "model.bin"), {"runtime_options": "INFERENCE_PRECISION_HINT=f32"})
    text = loading_section(made(onnx=onnx, openvino=openvino))
    assert "options.add_session_config_entry('session.disable_quant_qdq', '1')" in text
    assert 'compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in text
    for block in text.split("```python")[1:]:
        lines = block.split("```")[0].strip()
        assert len(lines.splitlines()) <= 5
        compile(lines, "card", "exec")


def test_licence_and_times() -> None:
    digits = licence_line("digits")  # says what the package that brings the images says, and no licence that it does not
    assert "digits.rst) states no licence" in digits
    assert "archive.ics.uci.edu/dataset/80" in digits
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    description = Path(package.origin).with_name("datasets").joinpath("descr/digits.rst").read_text().lower()
    assert "uci" in description
    assert "licen" not in description
    assert "does not know the licence" in licence_line("mine:make")
    assert "1 ms, float32 2 ms: 2.0 x faster than float32 here" in measured_section(made())
