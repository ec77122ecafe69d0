"""`QuantSpec`: how ONE tensor is quantized, with its exact text form and its exact storage cost."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from quant_core.spec.formats import ALIASES, FLOAT_SCALES, FORMATS, INTEGER_SCALES, SCALE_BITS, Format, text_examples
from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import given

_SIZED = ("group", "vector")
_SIZED_TOKEN = re.compile(r"(group|vector)(\d{1,9})")
_NUMBERED_HEAD = re.compile(r"(int|kmeans)(\d{1,9})")


class SpecError(InputError):
    """A text that is no spec, or a combination that is not legal."""


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """The quantization of one tensor. An illegal combination is refused when the spec is built.

    Attributes:
        format: a key of `quant_core.spec.formats.FORMATS`.
        bits: bits of one stored code (int and kmeans: free; others: fixed by the format).
        granularity: what shares a scale: tensor, channel, group, vector (two-level), token, block (fixed by the format), none.
        block: elements of a group, vector or block; kmeans groups count output channels. 0 where it has no meaning.
        clipping: how the range is chosen; for ternary the threshold method.
        rounding: nearest (ties to even), stochastic, gptq, adaround.
        symmetric: zero point 0; False is affine.
        scale: storage of a scale (fp32, fp16, e8m0; s4..s8: unsigned integers under a float scale).
        coarse: what shares the float scale of the two-level vector granularity: channel or tensor.
        dynamic: activations only: the range is taken from each batch instead of calibration.
        weighted: weights only: the clipping counts the error of a weight as often as its input weighs (`quant_core.ptq.weighting`).

    Raises:
        SpecError: with what was given and what is legal.
    """

    format: str = "float"
    bits: int = 32
    granularity: str = "tensor"
    block: int = 0
    clipping: str = "minmax"
    rounding: str = "nearest"
    symmetric: bool = True
    scale: str = ""
    coarse: str = "channel"
    dynamic: bool = False
    weighted: bool = False

    def __post_init__(self) -> None:
        faults = tuple(_faults(self))
        if faults:
            raise SpecError("; ".join(faults))

    def __str__(self) -> str:
        """The one text form; `parse(str(spec)) == spec`."""
        info = FORMATS[self.format]
        parts = [self.format if len(info.bits) == 1 else f"{self.format}{self.bits}"]
        if self.granularity != info.default_granularity:
            parts.append(f"{self.granularity}{self.block or ''}" if self.granularity in _SIZED else self.granularity)
        optional = (
            (self.coarse, "channel"),
            (self.clipping, info.clippings[0] if self.format != "ternary" else ""),
            ("weighted" if self.weighted else "", ""),
            ("" if self.symmetric else "affine", ""),
            (self.scale, default_scale(self.format, self.granularity)),
            (self.rounding, "nearest"),
            ("dynamic" if self.dynamic else "", ""),
        )
        return ":".join(parts + [text for text, default in optional if text != default])

    @property
    def is_float(self) -> bool:
        """True where nothing is quantized."""
        return self.format == "float"

    def storage_bits(self, shape: tuple[int, ...], channel_axis: int = 0) -> int:
        """Return the exact bits that a tensor of `shape` takes: codes and every scale, zero point, codebook and exponent."""
        count = math.prod(shape)
        if count == 0:
            return 0
        if self.is_float:
            return 32 * count
        rows = _rows(self, shape, channel_axis)
        return self.bits * count + _metadata_bits(self, rows, count // rows)

    def bits_per_element(self, shape: tuple[int, ...], channel_axis: int = 0) -> float:
        """Return `storage_bits` per element; 0.0 for an empty tensor."""
        count = math.prod(shape)
        return self.storage_bits(shape, channel_axis) / count if count else 0.0


def _rows(spec: QuantSpec, shape: tuple[int, ...], channel_axis: int) -> int:
    if not shape:
        return 1
    return math.prod(shape[:-1]) if spec.granularity == "token" else shape[channel_axis]


def default_scale(format_name: str, granularity: str) -> str:
    """Return how a scale is stored unless the spec says otherwise."""
    if format_name == "float" or granularity == "none":
        return ""
    if format_name == "int" and granularity in _SIZED:
        return "fp16" if granularity == "group" else "s4"
    return FORMATS[format_name].scales[0]


def make(format_name: str, bits: int = 0, granularity: str = "", **fields: object) -> QuantSpec:
    """Build a spec with the defaults of its format (`make("int", 4, "channel", clipping="mse")`).

    Raises:
        SpecError: unknown format or illegal combination.
    """
    name = ALIASES.get(format_name, format_name)
    if name not in FORMATS:
        raise SpecError(f"unknown format {given(format_name)}; known: {', '.join(FORMATS)}.{suggest(format_name, FORMATS)}")
    info = FORMATS[name]
    defaults: dict[str, object] = {
        "bits": bits or info.bits[0],
        "granularity": granularity or info.default_granularity or info.granularities[0],
        "block": info.block,
        "clipping": info.clippings[0],
    }
    chosen = defaults | fields
    chosen.setdefault("scale", default_scale(name, str(chosen["granularity"])))
    return QuantSpec(format=name, **chosen)  # type: ignore[arg-type]


def parse(text: str) -> QuantSpec:
    """Read the text form: `format[bits][:granularity][:clipping][:weighted][:affine][:scale][:rounding][:dynamic]`.

    The parts after the format may stand in any order; parts left out take the format's default.

    Raises:
        SpecError: with the part that was not understood and what is allowed there.
    """
    head, *tokens = text.strip().lower().split(":")
    fields: dict[str, object] = {}
    numbered = _NUMBERED_HEAD.fullmatch(head)
    name = numbered[1] if numbered else head.replace("_", "").replace("-", "")
    name = ALIASES.get(name, name)
    if name not in FORMATS or (len(FORMATS[name].bits) > 1 and not numbered):
        allowed = ", ".join(text_examples())
        raise SpecError(f"{given(text)}: {given(head)} is no number format; write for example {allowed}.{suggest(head, text_examples())}")
    if numbered:
        fields["bits"] = _read_bits(text, name, int(numbered[2]))
    for token in tokens:
        for field, value in _read_token(text, name, token).items():
            target = "coarse" if field == "granularity" and fields.get(field) == "vector" else field
            if target in fields:
                raise SpecError(f"{given(text)}: {given(token)} sets {target} a second time; say it once.")
            fields[target] = value
    try:
        return make(name, **fields)  # type: ignore[arg-type]
    except SpecError as error:
        raise SpecError(f"{given(text)}: {error}") from None


def _read_bits(text: str, name: str, bits: int) -> int:
    legal = FORMATS[name].bits
    if bits not in legal:
        raise SpecError(f"{given(text)}: {bits} bits given; {name} takes {legal[0]} to {legal[-1]} bits.")
    return bits


def _read_token(text: str, name: str, token: str) -> dict[str, object]:
    """Return the fields that one part of the text form sets."""
    info = FORMATS[name]
    sized = _SIZED_TOKEN.fullmatch(token)
    if sized:
        return {"granularity": sized[1], "block": int(sized[2])}
    if token in info.granularities and token not in _SIZED:
        return {"granularity": token}
    if token in info.clippings:
        return {"clipping": token}
    if token in info.roundings:
        return {"rounding": token}
    if token in info.scales and token:
        return {"scale": token}
    if token in ("affine", "sym"):
        return {"symmetric": token == "sym"}
    if token == "dynamic" or (token == "weighted" and info.weightable):
        return {token: True}
    allowed = _allowed_tokens(info)
    raise SpecError(f"{given(text)}: {given(token)} is not allowed after {name}; allowed: {', '.join(allowed)}.{suggest(token, allowed)}")


def _allowed_tokens(info: Format) -> list[str]:
    granularities = [f"{g}N" if g in _SIZED else g for g in info.granularities if g != "block"]
    extra = ["weighted"] if info.weightable else []
    extra += (["sym", "affine"] if info.affine else []) + [scale for scale in info.scales if scale] + ["dynamic"]
    return granularities + list(info.clippings) + list(info.roundings) + extra


def _one_of(field: str, value: object, legal: Iterable[object]) -> str:
    return f"{field} {value!r} given; legal: {', '.join(str(item) for item in legal)}"


def _faults(spec: QuantSpec) -> Iterable[str]:
    """Yield every rule that `spec` breaks, each with what is legal."""
    info = FORMATS.get(spec.format)
    if info is None:
        yield _one_of("format", spec.format, FORMATS)
        return
    checks: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("bits", spec.bits, info.bits),
        ("granularity", spec.granularity, info.granularities),
        ("clipping", spec.clipping, info.clippings),
        ("rounding", spec.rounding, info.roundings),
        ("scale", spec.scale, legal_scales(spec.format, spec.granularity)),
        ("coarse", spec.coarse, ("channel", "tensor") if spec.granularity == "vector" else ("channel",)),
    )
    for field, value, legal in checks:
        if value not in legal:
            yield _one_of(field, value, legal)
    if spec.granularity in _SIZED and spec.block < 1:
        usual = {"group": 128, "vector": 16}[spec.granularity]
        yield f"{spec.granularity} size {spec.block} given; a size of 1 or more is needed, as in {spec.granularity}{usual}"
    if spec.granularity not in _SIZED and spec.block != info.block:
        yield f"block {spec.block} given; {spec.format} by {spec.granularity} has {info.block or 'none'}"
    if spec.weighted and spec.clipping not in info.weightable:
        allowed = f"legal with clipping {', '.join(info.weightable)}" if info.weightable else "its scales are not searched"
        yield f"weighted given; {spec.format} with clipping {spec.clipping}: {allowed}"
    if not spec.symmetric and (not info.affine or spec.granularity == "vector" or spec.scale == "e8m0"):
        yield f"affine given; {spec.format} by {spec.granularity} with scale {spec.scale or 'none'} is symmetric only"


def legal_scales(format_name: str, granularity: str) -> tuple[str, ...]:
    """Return the storage types that a scale may have, the default first."""
    if format_name == "int":
        return INTEGER_SCALES if granularity == "vector" else FLOAT_SCALES
    return ("",) if granularity == "none" else FORMATS[format_name].scales


def _metadata_bits(spec: QuantSpec, rows: int, columns: int) -> int:
    """Return the bits of scales, zero points, codebooks and shared exponents of a weight seen as [rows, columns]."""
    if spec.format == "kmeans":
        books = {"tensor": 1, "channel": rows, "group": -(-rows // spec.block) if spec.block else 0}[spec.granularity]
        return int(books * 2**spec.bits * SCALE_BITS[spec.scale])
    blocks = -(-columns // spec.block) if spec.block else 1
    scales = {"none": 0, "tensor": 1}.get(spec.granularity, rows * blocks)
    bits = scales * SCALE_BITS.get(spec.scale, 0)
    if spec.granularity == "vector":
        bits += 32 * (rows if spec.coarse == "channel" else 1)
    if spec.format in ("mx4", "mx6", "mx9"):
        bits += rows * -(-columns // 2)
    if spec.format == "nvfp4":
        bits += 32
    if spec.clipping == "ttq":
        bits *= 2
    return bits + (0 if spec.symmetric else scales * spec.bits)


FLOAT = QuantSpec()
