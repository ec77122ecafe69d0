"""The device file of a profile: capability from the measurements, and the table beside it. Both are rewritten after every measurement."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hw_models.loading import device_names, load_device, parse_device
from hw_models.measurements import Measurement, read_measurements, write_measurements
from hw_models.models.measured import Host, MeasuredCompute, can_check
from hw_models.schema import toml_text
from hw_models.schema.codes import code_bits, shorten
from quant_core.spec.formats import FORMATS
from quant_core.util.errors import InputError
from quant_core.util.files import write_text

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SOURCE = "profile"
_HOW = ("least process CPU time", "time of whole networks beside float32, shared out to their layers by the runtime's profiler,")


def paths(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the paths of the device file and of its table."""
    return folder / f"{name}.toml", folder / f"{name}.csv"


def resume(name: str, folder: Path, host: Host, batch: int) -> tuple[Measurement, ...]:
    """Return the measurements of an earlier run; none where there was no run.

    Raises:
        InputError: the name is none, or that of a device that ships with bitfront; or the file is from another machine, software or batch.
    """
    toml, table = paths(name, folder)
    if not _NAME.fullmatch(name):
        raise InputError(f"device name {name!r} given; small letters, digits, '.', '_' and '-' are allowed, as in my-laptop.")
    if name in device_names():
        raise InputError(f"device name {name!r} is that of a device that ships with bitfront; give another, as in --device-name my-{name}.")
    if not toml.is_file():
        return ()
    device = load_device(toml)
    if not isinstance(device.compute, MeasuredCompute):
        raise InputError(f"{toml}: a device of kind {device.file.identity.kind!r}, which no profile wrote; give another --device-name.")
    before = device.compute.host
    differ = [
        f"{key} {getattr(before, key)!r}, now {getattr(host, key)!r}"
        for key in Host.model_fields
        if getattr(before, key) != getattr(host, key)
    ]
    if device.batch != batch:
        differ.append(f"batch {device.batch}, now {batch}")
    if differ:
        raise InputError(f"{toml} was measured with {'; '.join(differ)}. Give another --device-name, or remove the file to start over.")
    return read_measurements(table, batch)


def write(
    name: str, folder: Path, host: Host, batch: int, rows: Sequence[Measurement], followers: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write table and device file, each whole or not at all; return the path of the device file.

    Args:
        name, folder, host, batch: as `resume` takes them.
        rows: all measurements.
        followers: layer -> the layers that follow it; those of networks that were measured before stay.

    Raises:
        InputError: the folder cannot be written.
    """
    toml, table = paths(name, folder)
    write_text(table, write_measurements(rows, batch))
    text = toml_text.dumps(_content(name, host, batch, rows, {**_followers(toml), **(followers or {})}))
    parse_device(text, folder, str(toml))
    write_text(toml, text)
    return toml


def _followers(toml: Path) -> dict[str, tuple[str, ...]]:
    """Return the followers in an earlier device file."""
    if not toml.is_file():
        return {}
    compute = load_device(toml).compute
    return dict(compute.followers) if isinstance(compute, MeasuredCompute) else {}


def _content(name: str, host: Host, batch: int, rows: Sequence[Measurement], followers: Mapping[str, Sequence[str]]) -> dict[str, object]:
    kinds = list(dict.fromkeys(row.layer.kind for row in rows))
    repeats = max(row.repeats for row in rows)
    threads = f"{host.threads} thread{'s' * (host.threads > 1)}"
    following = {"followers": {layer: list(names) for layer, names in followers.items()}} if followers else {}
    content: dict[str, object] = {
        "schema": 1,
        "identity": {"name": name, "title": f"{host.cpu}, {threads}, measured", "kind": "measured", "batch": batch, "source": _SOURCE},
        "compute": {"file": f"{name}.csv", "source": _SOURCE, "host": host.model_dump(exclude_defaults=True), **following},
        "capability": [
            _capability(kind, {(row.mode.weight, row.mode.activation) for row in rows if row.layer.kind == kind}) for kind in kinds
        ],
        "source": [
            {
                "id": _SOURCE,
                "title": f"`bitfront profile` on this machine: {_HOW[bool(host.runtime)]} of up to {repeats} repeats",
                "where": f"{host.runtime or f'onnxruntime {host.onnxruntime}'}, fingerprint {host.fingerprint}",
            }
        ],
    }
    if can_check(rows, batch):
        content["golden"] = [
            {
                "name": "interpolation, leave one out",
                "check": "interpolation",
                "metric": "latency_s",
                "unit": "s",
                "file": f"{name}.csv",
                "tolerance_mean_percent": 100.0,
                "tolerance_max_percent": 1000.0,
                "source": _SOURCE,
            }
        ]
    return content


def _capability(kind: str, pairs: set[tuple[str, str]]) -> dict[str, object]:
    """Return the `[[capability]]` table of one kind of layer: the measured pairs, and every narrower pair as the nearest of them."""
    weights, activations = ({pair[slot] for pair in pairs} for slot in (0, 1))
    crossed = [(w, a) for w in sorted(weights) for a in sorted(activations) if (w, a) not in pairs]
    nearest = {pair: _nearest(pair, pairs) for pair in crossed}
    return {
        "layers": [kind],
        "weights": sorted(weights),
        "activations": sorted(activations),
        "pairs": sorted("/".join(pair) for pair in pairs),
        "weight_plateau": _plateau(weights),
        "activation_plateau": _plateau(activations),
        "pair_plateau": {"/".join(pair): "/".join(target) for pair, target in nearest.items() if target},
        "source": _SOURCE,
    }


def _nearest(pair: tuple[str, str], pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the measured pair that holds both codes with the fewest bits, activation first; the 1-bit kernel holds no other code."""
    holds = [
        holder
        for holder in pairs
        if "binary" not in holder and all(code_bits(n) <= code_bits(w) for n, w in zip(pair, holder, strict=True))
    ]
    return min(holds, key=lambda holder: (code_bits(holder[1]), code_bits(holder[0])), default=None)


def _plateau(codes: set[str]) -> dict[str, str]:
    """Return every integer code up to 16 bits, and the small formats, that is not measured itself -> the code that holds it."""
    others = [f"int{bits}" for bits in range(FORMATS["int"].bits[0], FORMATS["int"].bits[-1] + 1)] + ["binary", "ternary"]
    wider = sorted(codes - {"binary"}, key=code_bits)
    holders = {
        narrow: next((code for code in wider if code_bits(code) >= code_bits(narrow)), None) for narrow in others if narrow not in codes
    }
    targets = dict.fromkeys(target for target in holders.values() if target)
    return {run: target for target in targets for run in shorten(code for code in holders if holders[code] == target).split(", ")}
