"""Files that take one example, written in the fastest way that does not change outputs."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from quant_core.export.replay import latency, replayed
from quant_core.export.tagging import input_names
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import Bundle
from search.exporters.runtimes import example_arrays
from search.exporters.verify import Compared, compare, in_float64, require_close

SPARE = 1
"""Predictions that may differ in any case: a test split of hundreds has near ties."""
_ONE_SIZE = (
    "a file of {} takes inputs of one size alone, and batches have other lengths, heights or widths: pad all of them to one size, or use "
    "onnx or openvino."
)


class File(Protocol):
    """A file that is to be written."""

    def save(self, path: Path) -> None:
        """Write it."""


class Made(File, Protocol):
    """A file of packed weights: its bytes, those of the weights, and how many of them are due to wider types."""

    @property
    def data(self) -> bytes:
        """The file."""

    @property
    def payload(self) -> int:
        """Bytes of codes and scales."""

    @property
    def extra(self) -> float:
        """The part of `payload` that is due to wider types than the formats'."""


F = TypeVar("F", bound=File)
Checks = dict[str, Any]


def verified(
    bundle: Bundle, path: Path, ways: Sequence[tuple[Callable[[], F], str]], runtime: tuple[str, str]
) -> tuple[F, Compared, tuple[str, ...]]:
    """Write a file in the first way that gives the outputs of the simulation; return it, compared.

    Args:
        bundle: of the export.
        path: of the file.
        ways: of making it, the fastest first, and the note on it where others went before, with {} for why the last one does not do.
        runtime: its key, and its name in messages.

    Raises:
        InputError: a file cannot hold the policy or the network.
        BitfrontError: the outputs are not those of the simulation in any way.
    """
    key, name = runtime
    if bundle.network.others:
        raise InputError(_ONE_SIZE.format(name))
    why = ""
    exact: Compared | None = None
    for way, note in ways[:-1]:
        try:
            file, compared = _compared(bundle, path, way(), key)
            close = compared.close(bundle.network.stored, SPARE, rounded=True)
            if not close:
                exact = exact or in_float64(bundle)
                compared = replace(compared, rounding=exact)
            if close or compared.rounds:
                return file, compared, (note.format(why),) if why else ()
            why = str(compared)
        except InputError:
            raise
        except BitfrontError as error:
            why = str(error)
    way, note = ways[-1]
    file, compared = _compared(bundle, path, way(), key)
    compared = require_close(bundle, compared, name, SPARE, rounded=True)
    return file, compared, (note.format(why),) if why else ()


def checked(bundle: Bundle, path: Path, made: Made, write_float: Callable[[Path], None], runtime: tuple[str, str]) -> Checks:
    """Return the bytes of a file beside those that are modelled, and, where the bundle asks for it, its time beside the float network's.

    Args:
        bundle: of the export.
        path: of the file.
        made: the file.
        write_float: writes the float network's file.
        runtime: its key, and its name and version.
    """
    key, called = runtime
    checks: Checks = {}
    if bundle.measure:
        with tempfile.TemporaryDirectory() as place:
            reference = Path(place, f"float{path.suffix}")
            write_float(reference)
            checks |= latency(path, reference, example_arrays(bundle.network.example), runtime=key).checks
    checks |= {"file_bytes": len(made.data), "payload_bytes": made.payload, "carrier_bytes": made.extra}
    return checks | {"modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy), "runtime": called}


def _compared(bundle: Bundle, path: Path, file: F, runtime: str) -> tuple[F, Compared]:
    file.save(path)
    with replayed(path, input_names(bundle.network.example), runtime=runtime) as replay:
        return file, compare(bundle, replay)
