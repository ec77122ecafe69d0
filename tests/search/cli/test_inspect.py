"""`inspect` of an experiment: its layers, choices and ties. Of a packed file: `tests/search/exporters/test_flow.py`."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TASK = """
import bitfront
import torch
from torch import nn

class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.gate(x).sigmoid() * self.up(x))

def task():
    data = [(torch.randn(8, 6), torch.zeros(8, dtype=torch.long))]
    return bitfront.Task(Gated().eval(), train=data, calib=data, valid=data, test=data)
"""
EXPERIMENT = """
[task]
name = "gated_task:task"
[space]
weight = ["int4:channel", "int8:channel"]
activation = ["int8:token"]
[device]
name = "counts"
[export]
formats = ["vllm"]
"""


def test_layers_choices_and_ties_are_printed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gated_task.py").write_text(TASK)
    (tmp_path / "mine.toml").write_text(EXPERIMENT)
    shown = run("inspect", "mine.toml")
    assert shown.returncode == 0, shown.stderr
    printed = shown.stdout + shown.stderr
    assert "one choice: weight of gate, up (format vllm)" in printed
    assert "as gate" in printed
    assert "the policy covers" in printed
    described = json.loads(run("inspect", "mine.toml", "--json").stdout)
    assert described["ties"] == [{"slot": "weight", "layers": ["gate", "up"], "reason": "format vllm"}]
    weights = {row["layer"]: row["weight"] for row in described["layers"]}
    assert weights == {"gate": "2 choices", "up": "as gate", "head": "2 choices"}
    assert described["policies"] == "4"
    free = json.loads(run("inspect", "mine.toml", "export.formats=[]", "--json").stdout)
    assert (free["ties"], free["policies"]) == ([], "8")


def test_neither_a_file_nor_an_experiment_is_answered(run: Run) -> None:
    assert "cannot read the experiment file absent.toml" in run("inspect", "absent.toml").stderr
    assert run("inspect", "absent.safetensors").returncode == 2
