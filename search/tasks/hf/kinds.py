"""The kinds of networks that the task `hf` takes: their transformers class, their metrics and the columns of their data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from quant_core.util.errors import InputError
from quant_core.util.text import listed


@dataclass(frozen=True)
class Kind:
    """What is different from kind to kind.

    Attributes:
        name: as the user writes it.
        auto: the class of transformers that builds the network from a folder.
        processor: the class that makes its inputs.
        metrics: of the task; the first one is searched for.
        columns: part of an example -> the names that its column may have when the user gives none.
        optional: parts that data may lack.
    """

    name: str
    auto: str
    processor: str
    metrics: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()


_TEXT = ("text", "sentence", "sentence1", "premise", "question")
_PAIR = ("text2", "sentence2", "hypothesis", "answer")
_LABEL = ("label", "labels", "score")
_AGAINST_FLOAT = ("kld", "flips")

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("causal-lm", "AutoModelForCausalLM", "AutoTokenizer", ("perplexity", *_AGAINST_FLOAT), {"text": _TEXT}),
        Kind("masked-lm", "AutoModelForMaskedLM", "AutoTokenizer", ("perplexity", "accuracy", *_AGAINST_FLOAT), {"text": _TEXT}),
        Kind(
            "text-classification",
            "AutoModelForSequenceClassification",
            "AutoTokenizer",
            ("accuracy", *_AGAINST_FLOAT),
            {"text": _TEXT, "text2": _PAIR, "label": _LABEL},
            ("text2",),
        ),
        Kind(
            "sentence-similarity",
            "AutoModel",
            "AutoTokenizer",
            ("spearman", "pearson"),
            {"text": _TEXT, "text2": _PAIR, "label": ("score", *_LABEL)},
        ),
        Kind("image-classification", "AutoModelForImageClassification", "AutoImageProcessor", ("accuracy", *_AGAINST_FLOAT)),
        Kind(
            "speech",
            "AutoModelForSpeechSeq2Seq",
            "AutoProcessor",
            ("perplexity", "accuracy", *_AGAINST_FLOAT),
            {"audio": ("audio", "path", "file"), "text": ("text", "sentence", "transcription")},
        ),
    )
}


def kind_of(name: str) -> Kind:
    """Return a kind by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in KINDS:
        raise InputError(f"kind = {name!r} given; one of {listed(KINDS)} is needed.")
    return KINDS[name]
