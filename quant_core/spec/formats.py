"""The table of number formats: the legal combinations of each, and its implementation. Free of torch.

A format is added by one entry here and one module that holds its `encode` and `decode`.
"""

from dataclasses import dataclass

ROUNDINGS = {
    "nearest": "to the nearest code, ties to even",
    "stochastic": "up or down, with the chance of each by its nearness; unbiased",
    "gptq": "column by column, each for the output error left by those before (Frantar et al., ICLR 2023)",
    "adaround": "up or down as the layer's outputs ask for (Nagel et al., ICML 2020)",
}
FLOAT_SCALES = ("fp32", "fp16", "e8m0")
INTEGER_SCALES = ("s4", "s5", "s6", "s7", "s8")
SCALE_BITS = {"fp32": 32, "fp16": 16, "e8m0": 8, "e4m3": 8, "s4": 4, "s5": 5, "s6": 6, "s7": 7, "s8": 8}

CLIPPINGS = {
    "minmax": "the smallest and largest value seen",
    "ema": "moving average of each batch's min and max (Jacob et al., CVPR 2018)",
    "percentile": "the 99.99th percentile of the magnitudes",
    "kl": "least KL divergence of the histogram (TensorRT, Migacz, GTC 2017)",
    "mse": "least mean squared quantization error",
    "octav": "Newton iteration on a noise model of the error (Sakr et al., ICML 2022); use mse at 2 and 3 bits",
}


@dataclass(frozen=True, slots=True)
class Format:
    """The legal combinations of one number format.

    Attributes:
        bits: legal bits of a stored code; a single value is not written in the text form.
        granularities: legal granularities, the usual first.
        block: elements of a fixed block (0: the format has none).
        clippings: legal clippings or threshold methods, the default first.
        weightable: the clippings whose error may be weighted by what the inputs weigh.
        scales: storage of a scale, the default first ("" where there is no scale).
        implementation: `package.module:attribute` of the format's codec.
        about: one line for `bitfront list formats`.
        default_granularity: left out of the text form when equal.
    """

    bits: tuple[int, ...]
    granularities: tuple[str, ...]
    implementation: str
    about: str
    block: int = 0
    clippings: tuple[str, ...] = ("minmax",)
    scales: tuple[str, ...] = ("fp32",)
    roundings: tuple[str, ...] = ("nearest",)
    affine: bool = False
    default_granularity: str = ""
    weightable: tuple[str, ...] = ()


def _mx(bits: int, about: str, block: int, codec: str, scale: str = "e8m0", *, searched: bool = True) -> Format:
    return Format(
        (bits,),
        ("block",),
        codec,
        about,
        block=block,
        clippings=("minmax", "mse") if searched else ("minmax",),
        scales=(scale,),
        roundings=("nearest", "stochastic", "gptq"),
        default_granularity="block",
        weightable=("mse",) if searched else (),
    )


_MICRO = "quant_core.codecs.microexponent:CODEC"
_OCP = "quant_core.codecs.microscaling:CODEC"

FORMATS: dict[str, Format] = {
    "float": Format(
        (32,), ("tensor",), "quant_core.codecs.floating:CODEC", "float32, not quantized", scales=("",), default_granularity="tensor"
    ),
    "int": Format(
        tuple(range(1, 17)),
        ("tensor", "channel", "group", "vector", "token"),
        "quant_core.codecs.linear:CODEC",
        "linear, symmetric or affine, 1-16 bits (Jacob et al., CVPR 2018); vectorN: VSQuant (Dai et al., MLSys 2021)",
        clippings=tuple(CLIPPINGS),
        scales=FLOAT_SCALES + INTEGER_SCALES,
        roundings=tuple(ROUNDINGS),
        affine=True,
        weightable=("percentile", "mse", "octav"),
    ),
    "kmeans": Format(
        tuple(range(1, 9)),
        ("tensor", "channel", "group"),
        "quant_core.codecs.codebook:CODEC",
        "k-means codebook (Han et al., ICLR 2016)",
        roundings=("nearest", "gptq", "adaround"),
        weightable=("minmax",),
    ),
    "binary": Format(
        (1,),
        ("channel", "tensor", "none"),
        "quant_core.codecs.binary:CODEC",
        "sign times mean magnitude (Rastegari et al., ECCV 2016)",
        roundings=("nearest", "stochastic", "gptq"),
    ),
    "ternary": Format(
        (2,),
        ("tensor", "channel"),
        "quant_core.codecs.ternary:CODEC",
        "{-a, 0, +b}: twn (Li et al., 2016), ttq (Zhu et al., ICLR 2017), or opt, the least squared error of one level",
        clippings=("twn", "ttq", "opt"),
        scales=("fp32", "fp16"),
        roundings=("nearest", "gptq"),
        default_granularity="tensor",
    ),
    "mx4": _mx(3, "shared micro-exponents, 4 bits per element (ISCA 2023)", 16, _MICRO, searched=False),
    "mx6": _mx(5, "shared micro-exponents, 6 bits per element (ISCA 2023)", 16, _MICRO, searched=False),
    "mx9": _mx(8, "shared micro-exponents, 9 bits per element (ISCA 2023)", 16, _MICRO, searched=False),
    "mxfp4": _mx(4, "OCP MX v1.0, E2M1, blocks of 32", 32, _OCP),
    "mxfp6e2m3": _mx(6, "OCP MX v1.0, E2M3, blocks of 32", 32, _OCP),
    "mxfp6e3m2": _mx(6, "OCP MX v1.0, E3M2, blocks of 32", 32, _OCP),
    "mxfp8e4m3": _mx(8, "OCP MX v1.0, E4M3, blocks of 32", 32, _OCP),
    "mxfp8e5m2": _mx(8, "OCP MX v1.0, E5M2, blocks of 32", 32, _OCP),
    "mxint8": _mx(8, "OCP MX v1.0, INT8, blocks of 32", 32, _OCP),
    "nvfp4": _mx(4, "NVFP4: E2M1, blocks of 16 with E4M3 scales, one float per tensor", 16, "quant_core.codecs.nvfp4:CODEC", "e4m3"),
}

ALIASES = {"mxfp6": "mxfp6e2m3", "mxfp8": "mxfp8e4m3"}


def text_examples() -> tuple[str, ...]:
    """Return one text form per format, for help and error messages."""
    usual = {"int": "int4:channel:mse", "kmeans": "kmeans4:tensor", "binary": "binary:channel", "ternary": "ternary:twn"}
    return tuple(usual.get(name, name) for name in FORMATS)
