"""What `bitfront solve` needs of a network, kept when its sensitivities are measured, so that solving loads no network. Free of torch.

A file is bound to the weights and data that the sweep recorded, to the code of bitfront, to the source of the task and the files that
its options name, and to the experiment but for its budget. Where any of them has changed there is no file of that key: the network is
loaded and compared with the record.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw_models.loading import load_device
from quant_core.spec.kv_cache import Heads
from quant_core.spec.layer import Layer, layers_from_json, layers_to_json
from quant_core.util.cache_key import cache_key, code_hash
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder, write_text
from search.config.experiment import Experiment
from search.problem.problem import FloatArray
from search.sweeps.plan import Plan, build_space, planned
from search.sweeps.ties import Tie
from search.tasks import TASK_OBJECT, TASKS

CODE = ("quant_core", "spaces", "hw_models", "search")


@dataclass(frozen=True, eq=False)
class Basis:
    """What the choices of a sweep were built from.

    Attributes:
        layers: of the trace.
        ties: the choices that agree.
        rises: per dimension [K_d] the sensitivities.
        uncounted_bytes: of the parameters that are in no `weight_bytes`.
        heads: of the KV cache; empty where no policy quantizes it.
    """

    layers: tuple[Layer, ...]
    ties: tuple[Tie, ...]
    rises: tuple[FloatArray, ...]
    uncounted_bytes: float
    heads: Heads = ()


def plan_of(basis: Basis, experiment: Experiment, metrics: list[str]) -> Plan:
    """Return choices, costs and limits, from a basis and an experiment with any budget; `metrics` are the names of the task's.

    Raises:
        InputError: an objective or a budget that there is not.
    """
    device = load_device(experiment.device.name)
    space = build_space(basis.layers, experiment.space, device, basis.ties)
    return planned(experiment, basis.layers, space, device, metrics, basis.uncounted_bytes, basis.heads)


def keep(basis: Basis, experiment: Experiment, fingerprints: Mapping[str, str]) -> None:
    """Write a basis, unless it is there; a cache that cannot be written costs time, not the sweep."""
    path = _path(experiment, fingerprints)
    if path is None or path.exists():
        return
    ties = [[tie.slot, list(tie.layers), tie.reason] for tie in basis.ties]
    rises = [row.tolist() for row in basis.rises]
    text = json.dumps([layers_to_json(basis.layers), ties, rises, basis.uncounted_bytes, basis.heads])
    with contextlib.suppress(InputError):
        write_text(path, f"{_checksum(text)}\n{text}")


def kept(experiment: Experiment, fingerprints: Mapping[str, str], *, earlier: bool = False) -> Basis | None:
    """Return the basis of a sweep; None where there is none, what it is bound to has changed, or the file is not as it was written.

    Args:
        experiment: of the record; its budget does not matter.
        fingerprints: of the record.
        earlier: the latest one of earlier code of bitfront will do: it is shown as it was measured, and nothing is solved from it.
    """
    path = _path(experiment, fingerprints)
    try:
        if path is not None and earlier and not path.exists():
            others = path.parent.glob(f"{path.name.partition('-')[0]}-*.json")
            path = max(others, key=lambda other: other.stat().st_mtime_ns, default=None)
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n") if path else ("", "", "")
        if checksum != _checksum(text):
            return None
        layers, ties, rises, uncounted, *rest = json.loads(text)  # earlier code kept no heads
        arrays = tuple(np.asarray(row, dtype=np.float64) for row in rises)
        agreed = tuple(Tie(slot, tuple(names), why) for slot, names, why in ties)
        heads = tuple((int(count), int(size)) for count, size in (rest[0] if rest else ()))
        return Basis(layers_from_json(layers), agreed, arrays, float(uncounted), heads)
    except (OSError, ValueError, TypeError, RecursionError, InputError):
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _path(experiment: Experiment, fingerprints: Mapping[str, str]) -> Path | None:
    """Return the file of a sweep's basis; None where the source of its task cannot be told."""
    task, device = experiment.task, experiment.device
    if task.name == TASK_OBJECT:
        return None
    try:
        sources = [] if task.name in TASKS else _sources(task.name.partition(":")[0])
    except (ImportError, ValueError, OSError):
        return None
    files = [_stamp(path) for value in task.options.values() if isinstance(value, str) and value for path in _named(Path(value))]
    bound = (fingerprints["weights"], fingerprints["data"], sources, files, os.environ.get("BITFRONT_DATA", ""))
    asked = experiment.model_dump_json(include={"task", "space", "evaluate", "export"})
    rest = (device.name, device.objectives, repr(load_device(device.name).file), experiment.run.device, experiment.run.dtype)
    return cache_folder() / "basis" / f"{cache_key('basis', (), bound, asked, rest)}-{code_hash(*CODE)[:16]}.json"


def _sources(module: str) -> list[object]:
    """Return the hash of a task's source: of its package, or the stamps of the modules beside a module that stands alone."""
    name, dot, _ = module.partition(".")
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or dot or spec.submodule_search_locations:
        return [code_hash(name)]
    return [_stamp(path) for path in sorted(Path(spec.origin).parent.glob("*.py"))]


def _named(path: Path) -> list[Path]:
    """Return the files that a path names: itself, or those in the folder that it is."""
    try:
        return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path] if path.is_file() else []
    except (OSError, ValueError):
        return []


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns
