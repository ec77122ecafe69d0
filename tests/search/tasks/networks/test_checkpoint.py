"""Checkpoints are loaded as tensors alone."""

from pathlib import Path

import pytest
import torch

from quant_core.util.errors import InputError
from search.tasks.networks import build_network
from search.tasks.networks.checkpoint import load_checkpoint


def test_resnet20_checkpoint_loads_and_its_batch_norms_fit(shared_data: Path) -> None:
    network = load_checkpoint(build_network("resnet20", 3, 10), shared_data / "resnet20_cifar10" / "resnet20-12fca82f.th")
    assert not network.training
    means: list[float] = []
    network.layer3[2].register_forward_hook(lambda _m, _i, out: means.append(float(out.detach().mean())))  # type: ignore[index, union-attr]
    logits = network(torch.randn(64, 3, 32, 32))
    assert logits.shape == (64, 10)
    assert bool(torch.isfinite(logits).all())
    assert 0.01 < means[0] < 10, "activations of a trained network stay of order one"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({"state_dict": {"conv1.weight": 3}}, "holds no state dict"),
        ({"conv1.weight": torch.zeros(1)}, "is not of this network, a ResNet20"),
        (b"no file of torch", "cannot be read as a file of tensors"),
    ],
)
def test_bad_checkpoints_are_refused(tmp_path: Path, held: object, message: str) -> None:
    path = tmp_path / "net.th"
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        torch.save(held, path)
    with pytest.raises(InputError, match=message):
        load_checkpoint(build_network("resnet20", 3, 10), path)
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(build_network("resnet20", 3, 10), tmp_path / "absent.th")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("owned",)


def test_checkpoint_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "net.th")
    with pytest.raises(InputError, match="cannot be read as a file of tensors"):
        load_checkpoint(build_network("resnet20", 3, 10), tmp_path / "net.th")
    assert "owned" not in capsys.readouterr().out
