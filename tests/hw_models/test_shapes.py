from pathlib import Path

import pytest

from hw_models.device import FOLDER
from hw_models.shapes import layer_of, read_layers, shape_of
from quant_core.util.errors import InputError

ROW = {"index": "3", "kind": "conv", "in_channels": "16", "out_channels": "32", "kernel": "3", "stride": "2", "in_size": "15"}


def test_a_row_becomes_a_layer() -> None:
    layer = layer_of(ROW)
    assert (layer.name, layer.weight_shape, layer.out_size, layer.macs) == ("3", (32, 16, 3, 3), (8, 8), 64 * 32 * 16 * 9)
    depthwise = layer_of({**ROW, "kind": "depthwise", "out_channels": "16", "stride": "1"})
    assert (depthwise.groups, depthwise.weight_shape, depthwise.macs) == (16, (16, 1, 3, 3), 15 * 15 * 16 * 9)
    linear = layer_of({**ROW, "kind": "linear", "in_size": "7"})
    assert (linear.weight_shape, linear.in_size, linear.macs, linear.kernel) == ((32, 16), (7,), 7 * 16 * 32, ())
    assert layer_of({**ROW, "groups": "4", "out_size": "15"}).macs == 15 * 15 * 32 * 4 * 9


def test_shape_of_ignores_the_name_alone() -> None:
    assert shape_of(layer_of(ROW)) == shape_of(layer_of({**ROW, "index": "4"}))
    for key, value in (("kernel", "1"), ("stride", "1"), ("in_size", "16"), ("out_channels", "33"), ("groups", "2")):
        assert shape_of(layer_of(ROW)) != shape_of(layer_of({**ROW, key: value}))


def test_the_networks_that_ship_have_the_published_macs() -> None:
    resnet = read_layers(FOLDER / "resnet18-layers.csv")
    assert len(resnet) == 21
    assert sum(layer.macs for layer in resnet) == 1_814_073_344  # as torchvision's resnet18 documents: 1.814 G
    assert sum(layer.weights for layer in resnet) == 11_689_512 - 9600 - 1000  # less batch norms and the bias
    mobilenet = read_layers(FOLDER / "haq_vu9p_mobilenetv2.csv")
    assert len(mobilenet) == 53
    assert sum(layer.macs for layer in mobilenet) == 300_774_272  # 300.8 M


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind,in_channels\n", "no rows; a header line and one row per figure"),
        ("kind,in_channels\nconv,3\n", "columns out_channels, kernel, in_size are missing; given: kind, in_channels"),
        ("kind,in_channels,out_channels,kernel,in_size\npool,3,4,1,8\n", "kind 'pool'; legal: linear, conv"),
        ("kind,in_channels,out_channels,kernel,in_size\nconv,3,four,1,8\n", "invalid literal.*'four'"),
    ],
)
def test_a_wrong_csv_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "layers.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_layers(path)


def test_a_missing_csv_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere.csv: no such file"):
        read_layers(Path("nowhere.csv"))
