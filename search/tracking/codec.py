"""Records as JSON, exactly and compactly, and JSON cut into MLflow tags. Free of mlflow."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

from quant_core.spec.policy import NONE, LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import BitfrontError
from quant_core.util.text import LONGEST, printable
from search.records.record import SweepRecord, TrialRecord
from search.records.result import Result
from search.tasks.metrics.info import MetricInfo

Json = dict[str, Any]
CHUNK = 7_000  # an MLflow tag holds 8,000 characters
MAX_BYTES = 32 * 2**20
"""No record is larger: a network of 100,000 layers takes 10 MB. What inflates to more is not ours."""
MAX_LAYERS = 100_000
_NUMBERS = {int, float, bool}  # of JSON
_read_one = json.JSONDecoder().raw_decode
_parse = lru_cache(maxsize=4096)(parse)


@lru_cache(maxsize=65_536)
def _layer(weight: str, activation: str) -> LayerPolicy:
    return LayerPolicy(_parse(weight), _parse(activation))


def dumps(value: object) -> str:
    """Return compact ASCII JSON; floats are written so that they read back exactly."""
    return json.dumps(value, separators=(",", ":"))


def trial_to_json(trial: TrialRecord, layers: Sequence[str]) -> Json:
    """Return a trial as plain data; the policy's layer names are left out where they are `layers`."""
    specs: dict[str, int] = {}
    codes = [[specs.setdefault(str(spec), len(specs)) for spec in (layer.weight, layer.activation)] for layer in trial.policy.values()]
    data: Json = {
        "number": trial.number,
        "origin": trial.origin,
        "values": list(trial.values),
        "specs": list(specs),
        "codes": codes,
        "result": {key: value for key, value in asdict(trial.result).items() if value or key not in ("epochs", "examples", "estimate")},
        "asked": trial.ask_index,
        "told": trial.tell_index,
        "repeated": trial.repeated,
        "test": dict(trial.test),
        "after": list(trial.after),
    }
    if trial.policy.transform != NONE:
        data["transform"] = trial.policy.transform
    if not trial.policy.kv.is_float:
        data["kv"] = str(trial.policy.kv)
    return data if list(trial.policy) == list(layers) else data | {"layers": list(trial.policy)}


def trial_from_json(data: Json, layers: Sequence[str]) -> TrialRecord:
    """Read a trial back; the inverse of `trial_to_json`.

    Raises:
        BitfrontError: the data is not a trial's.
    """
    try:  # no context manager: there may be tens of thousands
        return _trial(data, layers)
    except _FOREIGN as error:
        raise _damaged("trial", error) from None


_FOREIGN = (BitfrontError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@contextmanager
def _checked(kind: str) -> Iterator[None]:
    """Turn whatever reading foreign data raises into one error."""
    try:
        yield
    except _FOREIGN as error:
        raise _damaged(kind, error) from None


def _damaged(kind: str, error: Exception) -> BitfrontError:
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return BitfrontError(f"the record of a {kind} is damaged ({said}); restore it from a backup, or leave the sweep out.")


def _trial(data: Json, layers: Sequence[str]) -> TrialRecord:
    names, specs = data.get("layers", layers), data["specs"]
    policy = Policy(
        {name: _layer(specs[w], specs[a]) for name, (w, a) in zip(names, data["codes"], strict=True)},
        data.get("transform", NONE),
        _parse(data.get("kv", "float")),
    )
    if len(names) > MAX_LAYERS:
        raise ValueError(f"{len(names)} layers")
    stored = data["result"]
    result = Result(
        str(stored["policy_id"]),
        _figures(stored["metrics"]),
        _figures(stored["cost"]),
        float(stored["seconds"]),
        str(stored["status"]),
        str(stored["reason"]),
        tuple(_figures(epoch) for epoch in stored.get("epochs", ())),
        str(stored.get("fidelity", "ptq")),
        int(stored.get("examples", 0)),
        _figures(stored.get("estimate", {})),
    )
    return TrialRecord(
        number=int(data["number"]),
        origin=str(data["origin"]),
        values=tuple(map(int, data["values"])),
        policy=policy,
        result=result,
        ask_index=int(data["asked"]),
        tell_index=int(data["told"]),
        repeated=int(data["repeated"]),
        test=_figures(data["test"]),
        after=tuple(int(number) for number in data.get("after", ())),
    )


def _figures(data: Json) -> dict[str, float]:
    """Return figures by name, as they were read; a value that is no number is refused."""
    if not set(map(type, data.values())) <= _NUMBERS:
        raise TypeError("a figure that is no number")
    return data


def sweep_to_json(sweep: SweepRecord) -> Json:
    """Return everything about a sweep but its trials."""
    return {
        key: value
        for key, value in asdict(replace(sweep, trials=(), measured={})).items()
        if key not in ("trials", "measured") and (value or key not in ("metrics", "quality_limits"))
    }


def sweep_from_json(data: Json) -> SweepRecord:
    """Read the header of a sweep; the inverse of `sweep_to_json`.

    Raises:
        BitfrontError: the data is not a sweep's.
    """
    with _checked("sweep"):
        return SweepRecord(
            str(data["name"]),
            str(data["run_id"]),
            str(data["experiment"]),
            {str(name): str(value) for name, value in data["fingerprints"].items()},
            tuple(str(name) for name in data["objectives"]),
            _figures(data["limits"]),
            _figures(data["reference"]),
            _figures(data["baseline"]),
            str(data["status"]),
            metrics=tuple(_info(entry) for entry in data.get("metrics", ())),
            quality_limits=_figures(data.get("quality_limits", {})),
        )


def _info(data: Json) -> MetricInfo:
    best = data["best"]
    return MetricInfo(
        printable(str(data["name"]), LONGEST),
        bool(data["higher"]),
        printable(str(data["unit"]), LONGEST),
        None if best is None else float(best),
        float(data["worst"]),
    )


def timings_of(text: str) -> tuple[int, Json]:
    """Return the trial and its timings by key, of the tag that holds them; (-1, {}) where it is none. What is no timing is left out."""
    try:
        data = json.loads(text or "{}")
        number, times = int(data["trial"]), dict(data["times"])
    except (ValueError, TypeError, KeyError):
        return -1, {}
    wanted = ("latency_s", "float32_latency_s", "ratio")
    good = {key for key, time in times.items() if isinstance(time, dict) and all(isinstance(time.get(name), float) for name in wanted)}
    return number, {key: times[key] for key in sorted(good)}


def to_tags(key: str, value: object) -> dict[str, str]:
    """Cut JSON into tags `key`, `key.1`, ...; the first says how many there are and whether they are compressed."""
    text, form = dumps(value), "j"
    if len(text) > CHUNK:
        text, form = base64.b64encode(zlib.compress(text.encode(), 9)).decode(), "z"
    count = -(-len(text) // CHUNK)
    parts = [text[i * CHUNK : (i + 1) * CHUNK] for i in range(count)]
    return {f"{key}.{i}" if i else key: part if i else f"{count}{form}:{part}" for i, part in enumerate(parts)}


def from_tags(tags: Mapping[str, str], key: str) -> Any:
    """Return the value that `to_tags` cut into tags; None where the key is absent.

    Raises:
        BitfrontError: a part is missing or damaged, or larger than any record.
    """
    if key not in tags:
        return None
    head, _, first = tags[key].partition(":")
    try:
        if head == "1j":
            value, end = _read_one(first)
            if end == len(first):  # all but the largest records, a fifth faster than by `loads`
                return value
        text = "".join([first, *(tags[f"{key}.{i}"] for i in range(1, int(head[:-1])))])
        return json.loads(_inflated(base64.b64decode(text)) if head.endswith("z") else text)
    except (KeyError, ValueError, RecursionError, zlib.error) as error:
        raise BitfrontError(f"the MLflow tag {key!r} is damaged ({type(error).__name__}: {error}); restore it from a backup.") from None


def layer_names(value: object) -> tuple[str, ...]:
    """Return the names of layers that a tag holds; none where it is absent.

    Raises:
        BitfrontError: the value is no list of names.
    """
    with _checked("sweep"):
        if not isinstance(value, list | None) or not all(isinstance(name, str) for name in value or ()):
            raise TypeError("layer names that are no list of text")
        return tuple(value or ())


def _inflated(data: bytes) -> bytes:
    """Decompress up to `MAX_BYTES`."""
    stream = zlib.decompressobj()
    text = stream.decompress(data, MAX_BYTES)
    if stream.unconsumed_tail or not stream.eof:
        raise ValueError(f"it inflates to more than {MAX_BYTES} bytes, or is cut off")
    return text
