"""What runs as what: per runtime and version a TOML file of kernels, as `bitfront probe` finds them. Free of torch and of the runtimes.

A kernel is `int8` (integer products), `N-bit weights` (packed codes, unpacked as they are multiplied with float inputs, or with inputs that
the runtime rounds to 8 bits), `float32` (codes become floats as the file is loaded), or `refused: REASON`.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hw_models.schema.device_file import LayerKind, Table
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.reading import LARGEST_TOML, parse_toml, read_text

FOLDER = Path(str(resources.files("hw_models"))) / "runtimes"


class KernelTable(Table):
    """The kernels of one kind of layer, one granularity of weights and one code of inputs; bits of integers -> stored type, kernel."""

    layer: LayerKind
    granularity: Literal["channel", "group32"]
    activation: Literal["float", "int8"]
    stored: dict[str, str]
    runs: dict[str, str]


class RuntimeFile(Table):
    """The kernels of a runtime, and where they were found."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    runtime: str
    version: str
    cpu: str
    probed: str
    kernels: tuple[KernelTable, ...]

    def kernel(self, layer: Layer, policy: LayerPolicy) -> tuple[str, str]:
        """Return (stored type, kernel) of a layer's choice; ("", "") where the file says nothing of such a choice."""
        weight = policy.weight
        granularity = "group32" if weight.granularity == "group" else "channel"
        activation = "float" if policy.activation.is_float else "int8"
        for table in self.kernels:
            if (table.layer, table.granularity, table.activation) == (layer.kind, granularity, activation) and weight.format == "int":
                return table.stored.get(f"int{weight.bits}", ""), table.runs.get(f"int{weight.bits}", "")
        return "", ""


def runtime_names() -> tuple[str, ...]:
    """Return the runtimes whose kernels ship with bitfront, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_runtime(name_or_path: str | Path) -> RuntimeFile:
    """Read the kernels of a runtime that ships with bitfront by name, or those of a file that `bitfront probe` wrote.

    Raises:
        InputError: there is no such file, or it is none of kernels.
    """
    path = FOLDER / f"{name_or_path}.toml" if str(name_or_path) in runtime_names() else Path(name_or_path)
    text = read_text(path, LARGEST_TOML)
    try:
        return RuntimeFile.model_validate(parse_toml(text, str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}; `bitfront probe RUNTIME --out FILE` writes such a file.") from None


def flags(file: RuntimeFile, layers: Sequence[Layer], choices: Mapping[str, Sequence[LayerPolicy]]) -> tuple[str, ...]:
    """Return a sentence for each choice of weights that a runtime stores in few bits and computes in float32, or refuses."""
    grouped: dict[str, set[str]] = {}
    for layer in layers:
        for policy in choices[layer.name] if layer.calls else ():
            stored, kernel = file.kernel(layer, policy)
            if not policy.weight.is_float and (kernel == "float32" or kernel.startswith("refused")):
                inputs = "float" if policy.activation.is_float else str(policy.activation)
                said = f"{policy.weight} weights of {layer.kind} layers with {inputs} inputs"
                verb = "are refused" if kernel != "float32" else f"are stored as {stored} and run as float32"
                grouped.setdefault(f"{said} {verb} in {file.runtime} {file.version}", set()).add(layer.name)
    return tuple(f"{said}: {len(names)} layer{'s' * (len(names) > 1)}" for said, names in grouped.items())
