"""The network of mlp_here.toml: four linear layers of width 1,024 on images of 28 x 28 pixels."""

from torch import nn


def mlp(channels: int, classes: int) -> nn.Module:
    """Return the untrained network: 2,910,208 weights for one channel and ten classes."""
    parts: list[nn.Module] = [nn.Flatten()]
    for inputs in (channels * 28 * 28, 1024, 1024):
        parts += [nn.Linear(inputs, 1024), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(1024, classes))
