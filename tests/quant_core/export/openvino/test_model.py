"""Models of OpenVINO: outputs against the simulation, kernels, stored types, names, refusals."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.export.openvino import inspection, storage
from quant_core.export.openvino.model import Representation, float_representation, refusals, representation
from quant_core.export.scripts import RUNTIMES
from quant_core.export.stored import Quantized
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from tests.quant_core.export import small_networks
from tests.quant_core.export.small_networks import IMAGES, TOKENS

openvino = pytest.importorskip("openvino")


ROWS = torch.randn(16, 80, generator=torch.Generator().manual_seed(1))


network = partial(small_networks.network, rows=ROWS)


def written(quantized: Quantized, folder: Path, *, allow: bool = False) -> tuple[Representation, Path]:
    made = representation(quantized, allow)
    made.save(folder / "model.xml")
    return made, folder / "model.xml"


def outputs(path: Path, inputs: Tensor) -> Tensor:
    values: Any = inspection.compiled(path)([inputs.numpy()])[0]
    return torch.from_numpy(np.array(values))


def kernels_of(path: Path, quantized: Quantized) -> dict[str, str]:
    return {row.layer: row.kernel for row in inspection.kernels(path, [layer.layer.name for layer in quantized.stored]).layers}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("weight=int7:channel,activation=int8:tensor", "i8"),  # 8 bits overflow without VNNI
        ("weight=int4:channel,activation=int8:tensor:affine", "i4"),
        ("weight=int4:channel:affine,activation=int8:tensor", "u4"),
        ("weight=int2:tensor,activation=int4:tensor", "u2"),
        ("weight=int5:channel,activation=int8:tensor", "i8"),
    ],
)
def test_layers_of_few_bits_run_by_integers_and_give_the_simulations_outputs(tmp_path: Path, text: str, kind: str) -> None:
    quantized = network("mixed", text)
    _, path = written(quantized, tmp_path)
    wanted = quantized.simulation(IMAGES).detach()
    assert float((outputs(path, IMAGES) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert inspection.stored_types(path, quantized.stored) == f"{kind} x 5"
    kernels = kernels_of(path, quantized)
    assert kernels.pop("up") in ("int8", "float32")  # transposed convolutions: by integers where the processor has AVX-512
    assert kernels == dict.fromkeys(("stem.0", "depthwise", "shared", "head"), "int8")


@pytest.mark.parametrize(
    ("text", "kernel"), [("weight=int4:channel", "4"), ("weight=int2:channel", "2"), ("weight=int8:group32:affine", "8")]
)
def test_packed_weights_of_linear_layers_stay_packed(tmp_path: Path, text: str, kernel: str) -> None:
    quantized = network("rows", text)
    made, path = written(quantized, tmp_path)
    wanted = quantized.simulation(ROWS).detach()
    assert float((outputs(path, ROWS) - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())  # the plugin rounds inputs to 8 bits
    assert kernels_of(path, quantized)["2"] == f"{kernel}-bit weights"
    assert made.payload + 400 > path.with_suffix(".bin").stat().st_size


@pytest.mark.parametrize("text", ["weight=int4:channel", "weight=int3:group4:fp16", "weight=int7:channel,activation=int8:tensor"])
def test_tied_weights_are_stored_once(tmp_path: Path, text: str) -> None:
    quantized = network("texts", text)
    made, path = written(quantized, tmp_path)
    wanted = quantized.simulation(TOKENS).detach()
    assert float((outputs(path, TOKENS) - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())
    assert path.with_suffix(".bin").stat().st_size < made.payload + 200


def test_codes_of_three_bits_are_stored_in_four_and_a_note_says_so(tmp_path: Path) -> None:
    made, _ = written(network("rows", "weight=int3:channel"), tmp_path)
    assert made.notes in (("3-bit int weights are stored in i4: 2, 0",), ("3-bit int weights are stored in i4: 0, 2",))
    assert made.extra == (80 * 64 + 64 * 5) / 8


def test_other_codes_than_the_policys_are_an_error(tmp_path: Path) -> None:
    _, path = written(network("rows", "weight=int4:channel"), tmp_path)
    with pytest.raises(BitfrontError, match=r"layer '0': int8:channel is stored as i4, i8 is due"):
        inspection.stored_types(path, network("rows", "weight=int8:channel").stored)
    with pytest.raises(BitfrontError, match=r"layer '0': the codes in i4 are not those of int3:channel"):
        inspection.stored_types(path, network("rows", "weight=int3:channel").stored)


def test_formats_without_an_operation_are_refused_by_name() -> None:
    quantized = network("rows", "weight=kmeans4:tensor")
    with pytest.raises(InputError, match=r"^layer '0': OpenVINO's [^']*use intN:channel or intN:group32 \(and 1 more layer\)\. --"):
        representation(quantized)
    layer = quantized.stored[0].layer
    assert "changes with every batch" in refusals(layer, parse_layer_policy("weight=int8:channel,activation=int8:token"))[0]
    assert storage.refusal(parse_layer_policy("weight=int4:group32").weight) == ""


def test_weights_without_an_operation_are_stored_in_float_where_that_is_allowed(tmp_path: Path) -> None:
    quantized = network("rows", "weight=kmeans4:tensor")
    made, path = written(quantized, tmp_path, allow=True)
    assert "kmeans4:tensor weights are stored dequantized, in float32" in made.notes[0]
    assert float((outputs(path, ROWS) - quantized.simulation(ROWS).detach()).abs().max()) < 1e-5
    assert inspection.stored_types(path, quantized.stored) == "f32 x 2"


def test_two_files_of_one_policy_are_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _, path = written(network("rows", "weight=int4:group32:affine,activation=int8:tensor"), tmp_path / name)
        texts.append((path.read_bytes(), path.with_suffix(".bin").read_bytes()))
    assert texts[0] == texts[1]


class Dead(nn.Module):
    """Two layers, and one whose output nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dead, self.last = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.mean(dim=(2, 3))))
        self.dead(x)
        return self.last(x)


@pytest.mark.parametrize("text", ["weight=int4:channel", "weight=int7:channel,activation=int8:tensor"])
def test_a_layer_whose_output_nothing_reads_is_left_out(tmp_path: Path, text: str) -> None:
    quantized = network("mixed", text, mixed=Dead)
    made, path = written(quantized, tmp_path)
    assert made.unread == ("dead",)
    assert made.notes[-1] == "nothing reads the output of these layers, so they are not in the file: dead"
    wanted = quantized.simulation(IMAGES).detach()
    assert float((outputs(path, IMAGES) - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())
    assert kernels_of(path, quantized).keys() == {"first", "last"}
    with pytest.raises(BitfrontError, match=r"layer 'dead': its codes are not in the file"):
        inspection.stored_types(path, quantized.stored)


class Extremes(nn.Module):
    """Maxima and minima before layers, with axes kept and dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 1), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(self.gate(x.amax(dim=(2, 3), keepdim=True)))
        return self.head(torch.cat([x.amax(dim=(2, 3)), x.amin(dim=3).mean(dim=2)], dim=1))


class Averaged(nn.Module):
    """A mean of positions, a norm, a layer, as LeViT ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 24, 1), nn.BatchNorm1d(24), nn.Linear(24, 5)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x).flatten(2).transpose(1, 2).mean(dim=1)))


@pytest.mark.parametrize(("mixed", "layers"), [(Extremes, ("stem", "gate", "head")), (Averaged, ("stem", "head"))])
def test_quantizers_behind_reductions_give_the_simulations_codes(tmp_path: Path, mixed: type[nn.Module], layers: tuple[str, ...]) -> None:
    quantized = network("mixed", "weight=int4:channel,activation=int8:tensor", mixed=mixed)
    _, path = written(quantized, tmp_path)
    wanted = quantized.simulation(IMAGES).detach()
    assert float((outputs(path, IMAGES) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert kernels_of(path, quantized) == dict.fromkeys(layers, "int8")


def test_a_float_network_is_written_as_it_is(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(80, 5)).eval()
    float_representation(model, ROWS).save(tmp_path / "float.xml")
    assert float((outputs(tmp_path / "float.xml", ROWS) - model(ROWS).detach()).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "begin", ["from quant_core.export.openvino import library\nlibrary()", RUNTIMES["openvino"]], ids=["here", "fresh"]
)
def test_openvino_sends_no_statistics(begin: str) -> None:
    """It starts a process to send them, which stays behind for ever where the importing one has threads."""
    script = f"""
import io, json, multiprocessing, os, sys, time, numpy, torch
started = []
multiprocessing.Process.start = lambda process: started.append(process)
os.environ.pop("CI", None)
{begin}
assert not started
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env={**os.environ, "CI": ""})
