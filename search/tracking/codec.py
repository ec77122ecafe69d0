"""Records as JSON, exactly and compactly, and JSON cut into MLflow tags. Free of mlflow."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import BitfrontError
from search.records.record import SweepRecord, TrialRecord
from search.records.result import Result

Json = dict[str, Any]
CHUNK = 7_000  # an MLflow tag holds 8,000 characters
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
    codes = [[specs.setdefault(str(spec), len(specs)) for spec in (each.weight, each.activation)] for each in trial.policy.values()]
    data: Json = {
        "number": trial.number,
        "origin": trial.origin,
        "values": list(trial.values),
        "specs": list(specs),
        "codes": codes,
        "result": {key: value for key, value in asdict(trial.result).items() if key != "epochs" or value},
        "asked": trial.ask_index,
        "told": trial.tell_index,
        "repeated": trial.repeated,
        "test": dict(trial.test),
        "after": list(trial.after),
    }
    return data if list(trial.policy) == list(layers) else data | {"layers": list(trial.policy)}


def trial_from_json(data: Json, layers: Sequence[str]) -> TrialRecord:
    """Read a trial back; the inverse of `trial_to_json`."""
    names, specs = data.get("layers", layers), data["specs"]
    policy = Policy({name: _layer(specs[w], specs[a]) for name, (w, a) in zip(names, data["codes"], strict=True)})
    fields = {key: data[key] for key in ("number", "origin", "repeated", "test")}
    result = Result(**(data["result"] | {"epochs": tuple(data["result"].get("epochs", ()))}))
    return TrialRecord(
        values=tuple(data["values"]),
        policy=policy,
        result=result,
        ask_index=data["asked"],
        tell_index=data["told"],
        after=tuple(data.get("after", ())),
        **fields,
    )


def sweep_to_json(sweep: SweepRecord) -> Json:
    """Return everything about a sweep but its trials."""
    return {key: value for key, value in asdict(replace(sweep, trials=())).items() if key != "trials"}


def sweep_from_json(data: Json) -> SweepRecord:
    """Read the header of a sweep; the inverse of `sweep_to_json`."""
    return SweepRecord(**(data | {"objectives": tuple(data["objectives"])}))


def to_tags(key: str, value: object) -> dict[str, str]:
    """Cut JSON into tags `key`, `key.1`, ...; the first says how many there are and whether they are compressed."""
    text, form = dumps(value), "j"
    if len(text) > CHUNK:
        text, form = base64.b64encode(zlib.compress(text.encode(), 9)).decode(), "z"
    count = -(-len(text) // CHUNK)
    parts = [text[i * CHUNK : (i + 1) * CHUNK] for i in range(count)]
    return {f"{key}.{i}" if i else key: part if i else f"{count}{form}:{part}" for i, part in enumerate(parts)}


def from_tags(tags: Mapping[str, str], key: str) -> Any:
    """Read what `to_tags` wrote; None where the key is absent.

    Raises:
        BitfrontError: a part is missing or damaged.
    """
    if key not in tags:
        return None
    head, _, first = tags[key].partition(":")
    try:
        text = "".join([first, *(tags[f"{key}.{i}"] for i in range(1, int(head[:-1])))])
        return json.loads(zlib.decompress(base64.b64decode(text)) if head.endswith("z") else text)
    except (KeyError, ValueError, zlib.error) as error:
        raise BitfrontError(f"the MLflow tag {key!r} is damaged ({type(error).__name__}: {error}); restore it from a backup.") from None
