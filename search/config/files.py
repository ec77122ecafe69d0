"""Reading and writing experiment files: TOML text, command-line overrides, every fault reported at once with its place."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from quant_core.util.errors import InputError
from quant_core.util.reading import check_depth, parse_toml
from quant_core.util.registry import suggest
from quant_core.util.text import cut, given, listed
from search.config.experiment import Experiment
from search.config.key_value import key_value, toml_value

FAULTS, FAULT = 20, 600  # faults of one error, and characters of one fault
EXPERIMENTS = Path(str(resources.files("search.config"))) / "experiments"


def packaged() -> tuple[str, ...]:
    """Return the names of the experiments that ship with bitfront, sorted."""
    return tuple(sorted(path.stem for path in EXPERIMENTS.glob("*.toml")))


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, or an experiment that ships with bitfront by its name, with `section.key=value` overrides on top.

    Relative paths inside the file are left as they are: they are relative to the working directory.

    Raises:
        InputError: the file cannot be read, is no TOML, or is not a valid experiment (every fault is listed).
    """
    try:
        text = (path if path.is_file() or str(path) not in packaged() else EXPERIMENTS / f"{path}.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the experiment file {path}: {error}. `bitfront init {path}` writes a commented one; "
            f"these ship with bitfront, by name: {listed(packaged(), 40)}."
        ) from error
    return loads(text, str(path), overrides)


def loads(text: str, place: str = "experiment", overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment from TOML text.

    Raises:
        InputError: as `load`.
    """
    data = parse_toml(text, place)
    for override in overrides:
        _override(data, override)
    check_depth(data, place)
    return from_data(data, place)


def from_data(data: Mapping[str, Any], place: str) -> Experiment:
    """Return the experiment that the sections of `data` describe.

    Raises:
        InputError: listing every fault.
    """
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise _as_input_error(place, [_fault(fault) for fault in error.errors()]) from None


def _as_input_error(place: Path | str, faults: Sequence[tuple[str, str]]) -> InputError:
    """Return one error that lists the faults (where, what): 20 of them at most, each cut where it is very long."""
    lines = [cut(f"  [{where}] {what}", FAULT) for where, what in faults[:FAULTS]]
    more = [f"  and {len(faults) - FAULTS} more"] if len(faults) > FAULTS else []
    return InputError("\n".join([f"{place}: {len(faults)} fault{'s' if len(faults) > 1 else ''}:", *lines, *more]))


def dumps(experiment: Experiment) -> str:
    """Return the resolved experiment as TOML: every default written out; `loads(dumps(e)) == e`."""
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True), multiline_strings=False)


def template(task: str = "digits", device: str = "vu9p-bitserial") -> str:
    """Return the commented experiment file that `bitfront init` writes, for a task and a device."""
    text = resources.files("search").joinpath("templates/experiment.toml").read_text(encoding="utf-8")
    return text.replace('name = "digits"', f'name = "{task}"').replace('name = "vu9p-bitserial"', f'name = "{device}"')


def _override(data: dict[str, Any], override: str) -> None:
    key, text = key_value(override, "override", "section.key=value", "search.trials=20")
    *sections, name = key.split(".")
    table = data
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise InputError(f"override {override!r}: {section!r} is a value, not a section.")
    value = toml_value(text)
    table[name] = text if _takes_text(sections, name) and not isinstance(value, str) else value


def _takes_text(sections: Sequence[str], name: str) -> bool:
    """Tell whether a key of the experiment holds text alone, so that `name=123` and `name=inf` are names."""
    model: type[BaseModel] = Experiment
    for section in sections:
        annotation = model.model_fields[section].annotation if section in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return False
        model = annotation
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return annotation is str or (get_origin(annotation) is Literal and all(isinstance(choice, str) for choice in get_args(annotation)))


def _fault(error: Any) -> tuple[str, str]:
    """Turn one pydantic error into (place, what was given and what is allowed)."""
    place = ".".join(str(part) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        keys = _known_keys(error["loc"][:-1])
        return place, f"unknown key; known here: {listed(keys, 40)}.{suggest(str(error['loc'][-1]), keys)}"
    if error["type"] == "missing":
        return place, "is missing; add it (see `bitfront init`)"
    if error["type"] == "model_type":
        keys = _known_keys(error["loc"])
        example = f"as in {place}.{keys[0]}=...; known: {listed(keys, 40)}"
        return place, f"{given(error['input'])} given; this is a section: set its keys, {example}"
    message = error["msg"].removeprefix("Value error, ")
    if message.startswith("Input should"):
        message = f"{given(error['input'])} given; i{message[1:]}"
    return place, message


def _known_keys(loc: Sequence[str | int]) -> list[str]:
    """Return the keys that the model at `loc` knows."""
    model: type[BaseModel] = Experiment
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)
