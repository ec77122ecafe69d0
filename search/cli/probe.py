"""`bitfront probe`: the kernels that an installed runtime has, and `bitfront devices show RUNTIME`, which prints those of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from search.cli.terminal import say, terminal

if TYPE_CHECKING:
    from hw_models.runtimes import RuntimeFile


def probe_command(
    runtime: Annotated[str, typer.Argument(help="onnxruntime, openvino, executorch, litert or torch.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write (.toml), as hw_models/runtimes has them.")] = None,
) -> None:
    """Find out which kernels the installed runtime has: a small network is exported in 2 to 8 bits, run, and its kernels are read back.

    Example: `bitfront probe openvino`
    """
    from hw_models.runtimes import load_runtime, runtime_names
    from hw_models.schema import toml_text
    from quant_core.util.files import require_writable, write_text
    from search.exporters.probing import probe
    from search.exporters.runtimes import runtime as named

    target = named(runtime)
    if out is not None:
        require_writable(out)
    file: RuntimeFile | None = None
    for _done, _total, result in probe(target):
        file = result
    assert file is not None
    print_kernels(file)
    if runtime in runtime_names():
        shipped = load_runtime(runtime)
        same = shipped.kernels == file.kernels
        say(f"{'the same as' if same else 'not the same as'} what ships with bitfront, of {shipped.version} on {shipped.cpu}")
    if out is not None:
        write_text(out, toml_text.dumps(file.model_dump(mode="json", by_alias=True)))
        say(f"wrote {out}")


def print_kernels(file: "RuntimeFile") -> None:
    """Print the kernels of a runtime: a line per kind of layer, inputs and granularity, with the bits that run alike together."""
    say(f"{file.runtime} {file.version} on {file.cpu}, probed {file.probed}: bits of the weights (type in the file): kernel")
    table = Table("layers", "inputs", "weights", "runs as")
    for entry in file.kernels:
        table.add_row(entry.layer, entry.activation, entry.granularity, "; ".join(_alike(entry.stored, entry.runs)))
    terminal().print(table)
    say("N-bit weights: packed codes, unpacked as they are multiplied; float32: codes become floats as the file is loaded")


def _alike(stored: Mapping[str, str], runs: Mapping[str, str]) -> list[str]:
    """Return the kernels of neighbouring bits that are stored and run alike, as `int3-int4 (i4): int8`."""
    groups: list[tuple[list[str], str]] = []
    for code, kernel in runs.items():
        said = f"({stored[code]}): {kernel}" if stored.get(code) else f": {kernel}"
        if groups and groups[-1][1] == said:
            groups[-1][0].append(code)
        else:
            groups.append(([code], said))
    return [f"{codes[0]}{f'-{codes[-1]}' if len(codes) > 1 else ''} {said}".replace(" :", ":") for codes, said in groups]
