"""The layers that follow a layer, over sums, norms and branches."""

import torch
from torch import Tensor, nn

from quant_core.network.followers import followers
from quant_core.network.trace import trace


class Branched(nn.Module):
    """Batch and layer norms, a residual sum, a projected shortcut, and a layer that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.shortcut = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.layer_norm = nn.LayerNorm(8)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.shortcut(x) + self.inner(x) + x)
        x = self.layer_norm(x.mean((2, 3)))
        outputs: Tensor = self.left(x) + self.right(x)
        return outputs


def test_a_layer_follows_the_last_one_of_those_that_reach_it() -> None:
    model, x = Branched().eval(), torch.randn(2, 3, 8, 8)
    found = followers(model, trace(model, x), x)
    assert found == {"stem": ("shortcut", "inner"), "inner": ("left", "right")}
