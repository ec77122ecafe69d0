"""torch's encoder without nested tensors: the same outputs, at padded positions too."""

import copy

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.padding import nesting_encoders
from quant_core.network.reference import reference_network

X = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))
AT_THE_END = torch.arange(6) >= torch.tensor([3, 4, 5, 5])[:, None]


def encoder(norm: bool) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(16) if norm else None).eval()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("padding", [AT_THE_END, AT_THE_END.flip(1), torch.zeros(4, 6, dtype=torch.bool), None])
def test_the_outputs_are_the_owner_s(norm: bool, padding: Tensor | None) -> None:
    model = encoder(norm)
    reference = reference_network(model)
    assert nesting_encoders(model) == [""]
    assert nesting_encoders(reference) == []
    with torch.inference_mode():
        torch.testing.assert_close(reference(X, src_key_padding_mask=padding), model(X, src_key_padding_mask=padding), rtol=1e-4, atol=1e-5)
        shapes: list[torch.Size] = []
        copied = copy.deepcopy(reference)
        copied.get_submodule("layers.0.linear1").register_forward_hook(lambda _module, args, _output: shapes.append(args[0].shape))
        copied(X, src_key_padding_mask=padding)
    assert shapes == [X.shape]
    assert reference_network(reference) is reference
