"""Networks that bitfront trains or loads itself: plain torch modules, no quantization in them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from quant_core.util.registry import resolve

if TYPE_CHECKING:
    from torch import nn

NETWORKS: Mapping[str, str] = {
    "resnet8": "search.tasks.networks.small:resnet8",
    "mobilenetv2": "search.tasks.networks.small:mobilenetv2",
    "dscnn": "search.tasks.networks.small:dscnn",
    "resnet20": "search.tasks.networks.resnet20:resnet20",
}


def build_network(name: str, channels: int, classes: int) -> "nn.Module":
    """Return an untrained network of the table, or of the user's `package.module:function`, for so many image channels and classes.

    Raises:
        InputError: unknown name.
    """
    return cast("Callable[[int, int], nn.Module]", resolve(NETWORKS, "network", name))(channels, classes)
