"""torchao's state of the policy's own weights: read back, and run in a fresh process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from quant_core.util.errors import BitfrontError
from search.exporters import torchao, torchao_weights
from tests.search.exporters.language import Logits, bundle, language_model

pytest.importorskip("torchao")


def test_the_state_gives_the_outputs_of_the_policy(quiet: None, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    given = bundle("int4:group32", fixed=(("*down_proj", "int3:channel:affine"), ("*q_proj", "int8:channel")), correct=True)
    checks = torchao.export(given, tmp_path).checks
    assert checks["stored_types"] == "int3 x 2, int4 x 11, int8 x 2"
    assert (checks["weights_top1_agreement"], checks["top1_agreement"] != 1.0) == (1.0, True)
    assert float(checks["weights_largest_output_difference"]) <= 1e-5
    model = Logits(language_model()).eval()
    state = torch.load(tmp_path / torchao_weights.FILE)
    for name in [name for name in state if name.endswith(".bias")]:
        model.get_submodule(name.removesuffix(".bias")).bias = torch.nn.Parameter(torch.zeros_like(state[name]))
    model.load_state_dict(state, assign=True)
    inputs, _ = next(iter(given.task.test))
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), given.network.plain(inputs))


def test_other_values_are_an_error(quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = torchao_weights.torchao_tensor

    def other(stored: Any) -> Any:
        tensor = made(stored)
        tensor.qdata[0, 0] ^= 1
        return tensor

    monkeypatch.setattr(torchao_weights, "torchao_tensor", other)
    with pytest.raises(BitfrontError, match=r"layer 'model\.model\.layers\.0\.self_attn\.q_proj' does not decode to the values of int4"):
        torchao_weights.write_weights(bundle("int4:group32"), tmp_path / "torchao.pt")
