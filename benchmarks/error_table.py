"""Signal-to-noise ratio of every format on trained weights and three distributions: `python -m benchmarks.error_table`.

Reads the ResNet-20 of `../shared/data` (or `--weights FILE`, a torch state dict) and writes the table into docs/quantization-error.md,
between its two markers.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from quant_core.codecs.quantize import fake_quantize
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError
from quant_core.util.files import write_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "quantization-error.md"
WEIGHTS = ROOT.parent / "shared" / "data" / "resnet20_cifar10" / "resnet20-12fca82f.th"
START, END = "<!-- error table: written by python -m benchmarks.error_table -->", "<!-- end of error table -->"
_SHAPE = (512, 1024)
_BY_BITS = (
    *("int{}:tensor", "int{}:tensor:mse", "int{}:channel", "int{}:channel:mse", "int{}:channel:octav", "int{}:channel:affine"),
    *("int{}:group128", "int{}:group128:mse", "int{}:group32", "int{}:vector16", "int{}:vector16:mse", "kmeans{}:tensor"),
)
_FIXED = (
    *("binary:channel", "ternary:twn", "ternary:ttq", "mx4", "mxfp4", "nvfp4", "mx6", "mxfp6e2m3", "mxfp6e3m2"),
    *("mxfp8e4m3", "mxfp8e5m2", "mxint8", "mx9"),
)


def specs() -> list[str]:
    """Return the text forms of the rows."""
    return [form.format(bits) for bits in range(2, 9) for form in _BY_BITS] + list(_FIXED)


def distributions() -> dict[str, list[Tensor]]:
    """Return Gaussian, Laplace and Student-t (4 degrees of freedom, heavy tails) matrices of 512 x 1024."""
    torch.manual_seed(0)
    heavy = torch.distributions.StudentT(4.0).sample(_SHAPE)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample(_SHAPE)
    return {"Gaussian": [torch.randn(_SHAPE)], "Laplace": [laplace], "Student-t 4": [heavy]}


def trained(path: Path) -> list[Tensor]:
    """Return the weights of convolutions and linear layers of a state dict.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give --weights a torch state dict.")
    state = torch.load(path, weights_only=True, map_location="cpu")
    return [tensor.float() for tensor in state.get("state_dict", state).values() if isinstance(tensor, Tensor) and tensor.dim() in (2, 4)]


def decibels(tensors: list[Tensor], text: str) -> float:
    """Return 10 log10 of signal over noise power, over all tensors together."""
    signal = noise = 0.0
    for x in tensors:
        signal += float((x.double() ** 2).sum())
        noise += float(((fake_quantize(x, text) - x).double() ** 2).sum())
    return 10.0 * float(torch.log10(torch.tensor(signal / noise)))


def bits_per_element(tensors: list[Tensor], text: str) -> float:
    """Return stored bits over elements, over all tensors together."""
    spec = parse(text)
    return sum(spec.storage_bits(tuple(x.shape)) for x in tensors) / sum(x.numel() for x in tensors)


def table(data: dict[str, list[Tensor]]) -> str:
    """Return the Markdown table: bits per element and decibels of every data set."""
    head = ["spec", "bits (512 x 1024)", "bits (ResNet-20)", *(f"{name}, dB" for name in data)]
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    for text in specs():
        sizes = [f"{bits_per_element(data[name], text):.3f}" for name in ("Gaussian", "ResNet-20")]
        lines.append(" | ".join([f"`{text}`", *sizes, *(f"{decibels(tensors, text):.2f}" for tensors in data.values())]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    """Measure, and write the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="torch state dict of a trained network")
    parser.add_argument("--page", type=Path, default=PAGE, help="Markdown page that holds the two markers")
    arguments = parser.parse_args()
    page = arguments.page.read_text()
    if START not in page or END not in page:
        raise InputError(f"{arguments.page} lacks the lines {START!r} and {END!r}; the table goes between them.")
    rows = table(distributions() | {"ResNet-20": trained(arguments.weights)})
    write_text(arguments.page, page[: page.index(START)] + f"{START}\n\n{rows}\n\n" + page[page.index(END) :])


if __name__ == "__main__":
    main()
