"""Check the plain data of a device file as a whole: every fault at once, each with its key and its line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hw_models.models import GOLDEN_CHECKS, Model, find_model
from hw_models.schema import device_file as schema
from hw_models.schema import toml_text
from hw_models.schema.codes import expand_all
from hw_models.schema.device_file import Compute, DeviceFile
from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import cut, given, listed

Fault = tuple[toml_text.Path, str]
TableT = TypeVar("TableT", bound=schema.Table)
SHOWN, LINE = 20, 400  # faults of one error, and characters of one fault


def check(data: dict[str, Any], folder: Path) -> tuple[list[Fault], DeviceFile | None, Compute | None]:
    """Check a whole file: every fault, and the parts, which are None where they are too wrong to build."""
    faults: list[Fault] = []
    model = _model(data, faults)
    file = _validated(DeviceFile, data, (), model, faults)
    compute = _validated(model.compute, data["compute"], ("compute",), model, faults) if model and "compute" in data else None
    faults += [*_sources(data), *_goldens(data, model, folder), *(_contradictions(file) if file else ())]
    return faults, file, compute


def _model(data: dict[str, Any], faults: list[Fault]) -> Model | None:
    """Return the model that the file names."""
    identity = data.get("identity")
    kind = identity.get("kind") if isinstance(identity, dict) else None
    if not isinstance(kind, str):
        return None
    try:
        return find_model(kind)
    except InputError as error:
        faults.append((("identity", "kind"), str(error)))
        return None


def _validated(kind: type[TableT], data: object, prefix: toml_text.Path, model: Model | None, faults: list[Fault]) -> TableT | None:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults += _faults(error, prefix, model)
        return None


def _faults(error: ValidationError, prefix: toml_text.Path, model: Model | None) -> Iterator[Fault]:
    """Turn pydantic's findings into faults; for an unknown key the message suggests the legal one."""
    for finding in error.errors():
        path = (*prefix, *finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            message = "unknown key" + _meant(str(finding["loc"][-1]), model)
        elif finding["type"] == "missing":
            message = "needed, but not given"
        else:
            message += f" (given: {given(finding['input'])})" if not isinstance(finding["input"], dict | list) else ""
        yield path, message


def _meant(key: str, model: Model | None) -> str:
    """Return the end of the message for an unknown key: a legal key that begins with it lacks only the unit."""
    keys = _legal_keys(model)
    units = [legal for legal in keys if legal.startswith(f"{key}_")]
    if units:
        return f": it has no unit; write {' or '.join(units)}"
    near = suggest(key, keys)
    return f".{near}" if near else ""


def _legal_keys(model: Model | None) -> tuple[str, ...]:
    shared = [table for table in vars(schema).values() if isinstance(table, type) and issubclass(table, schema.Table)]
    tables = [model.compute, *shared] if model else shared
    return tuple(dict.fromkeys(field.alias or name for table in tables for name, field in table.model_fields.items()))


def _sources(data: dict[str, Any]) -> Iterator[Fault]:
    """Yield every source id that no `[[source]]` defines."""
    sources = data.get("source")
    defined = [source.get("id") for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []

    def walk(value: object, path: toml_text.Path) -> Iterator[Fault]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "source" and path:
                    for name in inner if isinstance(inner, list) else [inner]:
                        if name not in defined:
                            yield (*path, key), f"source id {given(name)} does not exist; known: {listed(map(str, defined))}"
                elif (*path, key) != ("source",):
                    yield from walk(inner, (*path, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from walk(inner, (*path, index))

    yield from walk(data, ())


def _contradictions(file: DeviceFile) -> Iterator[Fault]:
    """Yield contradictions of a well-formed file: a kind or a source id that is named twice, a plateau onto a code that is not legal."""
    kinds = [(kind, ("capability", n, "layers")) for n, rule in enumerate(file.capability) for kind in rule.layers]
    ids = [(source.id, ("source", n, "id")) for n, source in enumerate(file.source)]
    for noun, named in (("layer kind", kinds), ("source id", ids)):
        seen = [name for name, _ in named]
        yield from ((path, f"{noun} {name!r} is named twice") for n, (name, path) in enumerate(named) if name in seen[:n])
    for n, rule in enumerate(file.capability):
        for slot, legal, plateau in (
            ("weight", rule.weights, rule.weight_plateau),
            ("activation", rule.activations, rule.activation_plateau),
        ):
            for code, target in plateau.items():
                if target not in expand_all(legal):
                    yield ("capability", n, f"{slot}_plateau", code), f"{target!r} is not among the {slot}s {listed(legal)}"
        for pair, target in rule.pair_plateau.items():
            if target not in rule.pairs:
                yield ("capability", n, "pair_plateau", pair), f"{target!r} is not among the pairs {listed(rule.pairs) or '(none)'}"


def _goldens(data: dict[str, Any], model: Model | None, folder: Path) -> Iterator[Fault]:
    """Yield golden checks that the model does not know, and CSV files that are not there."""
    checks = (*GOLDEN_CHECKS, *(model.checks if model else ()))
    goldens = data.get("golden")
    for index, golden in enumerate(goldens if isinstance(goldens, list) else []):
        if not isinstance(golden, dict):
            continue
        if model and golden.get("check") not in checks:
            yield ("golden", index, "check"), f"unknown check {given(golden.get('check'))}; known for this kind: {listed(checks)}"
        if golden.get("file") and not (folder / str(golden["file"])).is_file():
            yield ("golden", index, "file"), f"{given(golden['file'])} is not in {folder}"


def listing(faults: list[Fault], text: str) -> str:
    """Return one line per fault, 20 at most, `line 12, memory[0].size_bytes: ...`; the line is that of the nearest key in the text."""
    places = toml_text.lines_of(text)
    lines = []
    for path, message in faults:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        line = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), 1)
        lines.append((line, f"  line {line}, {key}: {message}"))
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([cut(line, LINE) for _, line in sorted(lines)[:SHOWN]] + more)
