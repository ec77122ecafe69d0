"""Programs of ExecuTorch: outputs against the simulation, kernels, stored types, notes, refusals."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.export.executorch import inspection
from quant_core.export.executorch.program import Lowered, float_program, program, require_exportable
from quant_core.export.stored import Quantized
from quant_core.util.errors import BitfrontError, InputError
from tests.quant_core.export import small_networks


class Mixed(small_networks.Mixed):
    """Without the sum, which would have its convolutions computed in float, and with another activation function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem[2] = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        x = torch.relu(self.shared(torch.relu(self.shared(torch.relu(x)))))
        return self.head(self.up(x).mean(dim=(2, 3)))


ROWS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


network = partial(small_networks.network, rows=ROWS, mixed=Mixed)


def written(quantized: Quantized, folder: Path, *, allow: bool = False, rounded: bool = False) -> tuple[Lowered, Path]:
    pytest.importorskip("executorch")
    made = program(quantized, allow_dequantized=allow, rounded=rounded)
    made.save(folder / "model.pte")
    return made, folder / "model.pte"


def difference(path: Path, quantized: Quantized) -> float:
    """Return the largest difference from the simulation, of its largest output, on four examples."""
    inputs = quantized.example[:4]
    outputs = torch.cat([torch.from_numpy(inspection.outputs(path, {"input": x[None].numpy()})) for x in inputs])
    wanted = quantized.simulation(quantized.example).detach()[:4]
    return float((outputs - wanted).abs().max()) / float(wanted.abs().max())


def kernels_of(path: Path, quantized: Quantized) -> dict[str, str]:
    return {row.layer: row.kernel for row in inspection.kernels(path, [layer.layer.name for layer in quantized.stored]).layers}


def test_static_int8_between_quantizers_and_ranges_by_row_before_a_mean(tmp_path: Path) -> None:
    quantized = network("mixed", "weight=int8:channel,activation=int8:tensor")
    made, path = written(quantized, tmp_path)
    assert difference(path, quantized) <= 0.02
    assert inspection.stored_types(path, quantized.stored) == "qcint8 x 5"
    by_row = "8-bit weights"
    assert kernels_of(path, quantized) == {"stem.0": "int8", "depthwise": "int8", "shared": "int8", "up": by_row, "head": by_row}
    assert (made.extra, made.notes) == (0.0, ())


@pytest.mark.parametrize(
    ("text", "types", "kernels"),
    [
        ("weight=int4:channel,activation=int8:tensor", "qcint4 x 2", ("int8", "4-bit weights")),
        ("weight=int3:channel", "qcint4 x 2", ("4-bit weights", "4-bit weights")),
        ("weight=int4:group32:e8m0", "qbint4 x 2", ("4-bit weights", "4-bit weights")),
        ("weight=int8:channel,activation=int8:token", "qcint8 x 2", ("8-bit weights", "8-bit weights")),
    ],
)
def test_codes_of_linear_layers_stay_packed(tmp_path: Path, text: str, types: str, kernels: tuple[str, str]) -> None:
    quantized = network("rows", text)
    made, path = written(quantized, tmp_path)
    assert difference(path, quantized) <= 0.03  # inputs are rounded to 8 bits by row
    assert inspection.stored_types(path, quantized.stored) == types
    assert tuple(kernels_of(path, quantized).values()) == kernels
    assert made.payload < path.stat().st_size < made.payload + 6000


def test_an_embedding_is_looked_up_in_its_codes_and_a_tied_product_has_them_too(tmp_path: Path) -> None:
    quantized = network("texts", "weight=int4:channel")
    _, path = written(quantized, tmp_path)
    assert difference(path, quantized) <= 0.02
    assert inspection.stored_types(path, quantized.stored) == "embedding_4bit x 1, qcint4 x 1"
    assert kernels_of(path, quantized) == {"embed": "4-bit weights", "head": "4-bit weights"}


def test_other_codes_than_the_policys_are_an_error(tmp_path: Path) -> None:
    _, path = written(network("rows", "weight=int4:channel"), tmp_path)
    with pytest.raises(BitfrontError, match=r"layer '0': its codes of int8:channel are not in the file, qcint8 is due"):
        inspection.stored_types(path, network("rows", "weight=int8:channel").stored)
    with pytest.raises(BitfrontError, match=r"layer '0': its codes of int4:channel are not in the file, fp32 is due"):
        inspection.stored_types(path, network("rows", "weight=int4:channel").stored, {"0"})
    (tmp_path / "other.pte").write_bytes(b"none")
    with pytest.raises(BitfrontError, match=r"other\.pte is no program of ExecuTorch"):
        inspection.contents(tmp_path / "other.pte")


def test_codes_and_scales_in_wider_types_are_noted(tmp_path: Path) -> None:
    made, _ = written(network("rows", "weight=int3:group32"), tmp_path, rounded=True)
    assert made.notes == (
        "3-bit int weights are stored in 4 bits: 0, 2",
        "scales of groups are rounded to bfloat16, by at most 0.2 %: 0, 2",
    )
    assert made.extra == 64 * 69 / 8


def test_a_depthwise_convolution_without_a_kernel_is_refused_or_stored_in_float(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    with pytest.raises(
        InputError, match=r"^layer 'depthwise': XNNPACK has a kernel for its packed weights only between.*stores such weights"
    ):
        program(network("mixed", "weight=int8:channel"))
    quantized = network("mixed", "weight=int8:channel")
    made, path = written(quantized, tmp_path, allow=True)
    assert made.floats == {"depthwise"}
    assert "int8:channel weights are stored dequantized, in float32: depthwise" in made.notes
    assert difference(path, quantized) <= 0.02
    assert inspection.stored_types(path, quantized.stored, made.floats) == "fp32 x 1, qcint8 x 4"


def test_two_files_of_one_policy_are_the_same_bytes() -> None:
    pytest.importorskip("executorch")
    one, two = (program(network("rows", "weight=int4:channel,activation=int8:tensor")) for _ in range(2))
    assert one.data == two.data


def test_a_float_network_is_written_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    model = nn.Sequential(nn.Linear(64, 5)).eval()
    float_program(model, ROWS).save(tmp_path / "float.pte")
    output = inspection.outputs(tmp_path / "float.pte", {"input": ROWS[:1].numpy()})
    assert abs(output - model(ROWS[:1]).detach().numpy()).max() < 1e-5


class Counts(nn.Module):
    """A network that a graph cannot hold: what it computes depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x if float(x.sum()) > 0 else -x)


def test_networks_that_no_program_holds_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^torch\.export cannot represent this network: .*Use onnx or safetensors\.$"):
        require_exportable(Counts().eval(), ROWS)
    pytest.importorskip("executorch")
    half = network("rows", "weight=int8:channel")
    half.base.register_buffer("table", torch.zeros(1))
    half.base.register_parameter("wide", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    with pytest.raises(InputError, match=r"compute in float32, this network has torch\.float64; search and export model\.float\(\)\.$"):
        program(half)
