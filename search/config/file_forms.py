"""The forms in which an experiment file writes choices and limits. The JSON schema of `Experiment` describes them to editors."""

from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic takes typing.TypedDict from Python 3.12 on

SpecText = Annotated[
    str,
    Field(
        description="format[bits][:granularity][:clipping][:weighted][:affine][:scale][:rounding][:dynamic]; see `bitfront list formats`.",
        examples=["int4:channel:mse", "int8:tensor:ema", "mxfp4", "float"],
    ),
]


@with_config(ConfigDict(extra="forbid"))
class Alternatives(TypedDict, total=False):
    """A table of alternatives: every combination of its values is one choice."""

    format: str | list[str]
    bits: int | list[int]
    granularity: str | list[str]
    clipping: str | list[str]
    rounding: str | list[str]
    scale: str | list[str]
    symmetric: bool | list[bool]


ChoicesForm = SpecText | Alternatives | list[SpecText | Alternatives]
"""A spec text, a table of alternatives, or a list of both."""

LimitForm = (
    Annotated[float, Field(gt=0, description="An absolute limit, in SI units.")]
    | Annotated[
        str,
        Field(
            pattern=r"^\s*([<>]=\s*)?([0-9.]+([eE][-+]?[0-9]+)?\s*(%\s*|points?\s*)?(of\s+(float|int8))?"
            r"|float\s*[-+]\s*[0-9.]+([eE][-+]?[0-9]+)?(\s*points?)?)\s*$",
            description="A share of the figure of the float network, or of the network with 8 bits everywhere; of a metric also points "
            "from the float network's figure, or a least value.",
            examples=["0.25 of float", "60% of int8", "float - 0.5", ">= 0.9"],
        ),
    ]
)
"""An absolute limit in SI units, or a share of a reference network's figure; of a metric also points from float, or a least value."""
