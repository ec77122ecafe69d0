"""A layer as a matrix product must give the layer's own output, for every kind."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.moments import second_moments
from quant_core.network.patches import bounded_patches, patches, weight_from_rows, weight_rows
from quant_core.util.spill import SpillFile

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (2, 4, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (2, 4, 11)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same", dilation=(1, 2)), (2, 4, 7, 8)),
    "conv2d valid": (lambda: nn.Conv2d(4, 8, 3, padding="valid", groups=4), (2, 4, 7, 8)),
    "conv2d reflect": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect", stride=2), (2, 4, 7, 8)),
    "conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 1)), (2, 2, 5, 6, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, padding=2, output_padding=1, groups=2), (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2, dilation=(2, 1)), (2, 4, 5, 4)),
    "transposed2d cropped": (lambda: nn.ConvTranspose2d(4, 6, 2, padding=1), (2, 4, 5, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2, groups=2), (1, 2, 3, 3, 2)),
}


def _output(module: nn.Module, x: Tensor) -> Tensor:
    """Return the module's output without bias as [channels, positions]."""
    module.register_parameter("bias", None)
    y: Tensor = module(x)
    return y.flatten(0, -2).t() if isinstance(module, nn.Linear) else y.movedim(1, 0).flatten(1)


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_rows_is_the_layer(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module, x = make(), torch.randn(shape)
    weight = module.get_parameter("weight").detach()
    rows = weight_rows(module, weight)
    product = (rows @ patches(module, x).transpose(1, 2)).flatten(0, 1)
    torch.testing.assert_close(product, _output(module, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(weight_from_rows(module, rows), weight)


@pytest.mark.parametrize("limit", [2**62, 40])
@pytest.mark.parametrize("part", [(0, 1, 1), (6, 12, 24)], ids=["batch", "part"])
@pytest.mark.parametrize("name", LAYERS)
def test_pieces_hold_the_same_patches_and_few_at_once(
    name: str, part: tuple[int, int, int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module, x = make(), torch.randn(12, *shape[1:])
    whole = patches(module, x, limit, part)
    monkeypatch.setattr("quant_core.network.patches.PIECE_BYTES", 1)
    pieces = list(bounded_patches(module, x, limit, part))
    weights = torch.randn(whole.shape[-1], dtype=torch.float64)
    ours, wanted = ((rows.double() @ weights).sort(dim=1).values for rows in (torch.cat(pieces, dim=1), whole))
    torch.testing.assert_close(ours, wanted)
    assert isinstance(module, nn.Linear) or len(pieces) == len(x)


def test_transformers_conv1d() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    module, x = Conv1D(3, 5), torch.randn(2, 4, 5)
    weight = module.weight.detach()
    rows = weight_rows(module, weight)
    product = (rows @ patches(module, x).transpose(1, 2))[0].t() + module.bias
    torch.testing.assert_close(product.reshape(2, 4, 3), module(x))
    assert torch.equal(weight_from_rows(module, rows), weight)


def test_second_moments_and_covariance() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
    batches = [torch.randn(7, 4) for _ in range(3)]
    seen = torch.cat(batches).relu()
    moments = second_moments(model, {"1": model[1]}, batches, centered=False)["1"]
    assert moments.matrix is not None
    torch.testing.assert_close(moments.matrix[0], seen.t() @ seen / 21)
    covariance = second_moments(model, {"1": model[1]}, batches, centered=True)["1"]
    assert covariance.matrix is not None
    torch.testing.assert_close(covariance.matrix[0], torch.cov(seen.t(), correction=0))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("on_disk", [False, True])
def test_few_patches_are_kept_in_place_of_the_matrix_and_are_exact(centered: bool, on_disk: bool) -> None:
    """40 patches of 100 inputs: rows; one more batch makes them 60, and they are summed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 3))
    batches = [torch.randn(20, 100) + 0.3 for _ in range(3)]
    options: dict[str, object] = {"limit": 0, "file": SpillFile()} if on_disk else {}
    rows = weight_rows(model[0], model[0].weight.detach())
    for count, kept in ((2, True), (3, False)):
        moments = second_moments(model, {"0": model[0]}, batches[:count], centered=centered, **options)["0"]  # type: ignore[arg-type]
        assert (moments.rows is not None, moments.matrix is None) == (kept, kept)
        seen = torch.cat(batches[:count])
        wanted = torch.cov(seen.t(), correction=0) if centered else seen.t() @ seen / len(seen)
        torch.testing.assert_close(moments.times(rows)[0], rows[0] @ wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moments.energy(rows)[0], ((rows[0] @ wanted) * rows[0]).sum(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("centered", [False, True])
def test_a_sample_stands_for_a_matrix_that_is_too_large(centered: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, groups=2))
    batches = [torch.randn(12, 6, 9, 9) + 0.5 for _ in range(4)]
    modules = {"0": model[0]}
    exact = second_moments(model, modules, batches, centered=centered)["0"]
    sampled = second_moments(model, modules, batches, centered=centered, largest=26)["0"]
    assert sampled.matrix is None
    assert sampled.rows is not None
    assert sampled.rows.shape == (2, 2048, 27)
    rows = weight_rows(model[0], model[0].weight.detach())
    torch.testing.assert_close(sampled.energy(rows), exact.energy(rows), rtol=0.15, atol=0.0)
    torch.testing.assert_close((sampled.times(rows) * rows).sum(dim=2), sampled.energy(rows))
    torch.testing.assert_close((exact.times(rows) * rows).sum(dim=2), exact.energy(rows))


def test_the_memory_of_a_wide_layer_is_bounded() -> None:
    """65,536 inputs: the matrix would take 16 GiB."""
    model = nn.Sequential(nn.Conv2d(1024, 2, 8))
    moments = second_moments(model, {"0": model[0]}, [torch.randn(8, 1024, 8, 8) for _ in range(3)], centered=True)["0"]
    assert moments.rows is not None
    assert moments.rows.shape == (1, 24, 65_536)
    assert second_moments(model, {"0": model[0]}, [], centered=True)["0"].rows is not None


@pytest.mark.parametrize("positions", [2**62, 40])
def test_parts_of_batches_give_the_moments_of_the_batches(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same positions are taken: where all fit, and where a choice of them does."""
    monkeypatch.setattr("quant_core.network.moments.POSITIONS", positions)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)).eval()
    batches = [torch.randn(size, 3, 6, 6) for size in (9, 5)]
    modules = {"conv": model[0], "linear": model[2]}
    whole, cut = (second_moments(model, modules, batches, centered=True, at_once=at_once) for at_once in (0, 4))
    for name in modules:
        values = torch.randn(1, 2, 27 if name == "conv" else 64)
        assert torch.allclose(cut[name].energy(values), whole[name].energy(values), rtol=1e-4)
