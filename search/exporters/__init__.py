"""Exporters: one file and one line each. An exporter writes files into a folder and proves that they hold the policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy

if TYPE_CHECKING:
    from quant_core.export.stored import Quantized
    from search.config.experiment import Experiment
    from search.records.record import SweepRecord, TrialRecord
    from search.tasks.task import Task

EXPORTERS: dict[str, str] = {
    "policy": "search.exporters.policy:export",
    "safetensors": "search.exporters.safetensors:export",
    "onnx": "search.exporters.onnx_qdq:export",
    "onnx-matmulnbits": "search.exporters.onnx_qdq:export_matmulnbits",
    "openvino": "search.exporters.openvino:export",
    "executorch": "search.exporters.executorch:export",
    "litert": "search.exporters.litert:export",
    "c-array": "search.exporters.c_array:export",
    "torchao": "search.exporters.torchao:export",
    "gguf": "search.exporters.gguf:export",
    "compressed-tensors": "search.exporters.compressed:export",
    "vllm": "search.exporters.vllm:export",
    "card": "search.exporters.card:export",
}


@dataclass(frozen=True, eq=False)
class Bundle:
    """A picked policy with everything an exporter may need.

    Attributes:
        policy, layers: of the export; layers in network order.
        experiment, task: the origin of the policy.
        network: the trial's network as it was measured, with everything that it stores; of one type at every fidelity.
        record, trial: the sweep and the trial that was picked.
        metrics: split ("valid", "test", "float_valid", "float_test") -> metrics of the policy and of the float network.
        allow_dequantized: weights that the format cannot represent may be stored as float constants of their quantized values.
        measure: latency beside float32 is measured in the runtime.
        round_scales: scales that the format stores in fewer bits may be rounded to them.
        written: format -> what was written before; the card describes it.
        changes: what the policy's transform changed in the float network, in words.
    """

    policy: Policy
    layers: tuple[Layer, ...]
    experiment: "Experiment"
    task: "Task"
    network: "Quantized"
    record: "SweepRecord"
    trial: "TrialRecord"
    metrics: Mapping[str, Mapping[str, float]]
    allow_dequantized: bool = False
    measure: bool = False
    round_scales: bool = False
    written: "Mapping[str, Exported]" = field(default_factory=dict)
    changes: str = ""


@dataclass(frozen=True)
class Exported:
    """The files of an exporter, and its checks of them.

    Attributes:
        files: names within the folder.
        checks: verified figures: accuracy in the target runtime, largest output difference, bytes, ...
        notes: warnings that the user should read.
    """

    files: tuple[str, ...]
    checks: Mapping[str, float | str]
    notes: tuple[str, ...] = ()


Exporter = Callable[[Bundle, Path], Exported]
