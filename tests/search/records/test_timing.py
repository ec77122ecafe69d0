"""Recorded times in words."""

import pytest

from search.records.timing import row, sentence, verdict

TIMING = {
    "runtime": "openvino", "version": "2026.4.1", "cpu": "EPYC", "threads": 2, "date": "2026-11-29",
    "latency_s": 0.0021, "float32_latency_s": 0.0049, "ratio": 0.4286, "integer_layers": "49 of 50",
}  # fmt: skip


def test_a_time_is_a_sentence_and_a_line_of_a_table() -> None:
    assert sentence(TIMING) == "openvino 2026.4.1, 2 threads, EPYC, 2026-11-29: 2.1 ms, float32 4.9 ms: 2.3 x faster than float32 here"
    assert list(row("abc", TIMING).values()) == [
        "abc",
        "openvino 2026.4.1",
        "2",
        "2.1",
        "4.9",
        "49 of 50",
        "2.3 x faster than float32 here",
    ]


@pytest.mark.parametrize(
    ("ratio", "words"), [(2.6, "float32 is faster here: 2.6 x"), (1.02, "as fast as float32 here"), (0.5, "2.0 x faster than float32 here")]
)
def test_where_quantization_does_not_pay_it_is_said(ratio: float, words: str) -> None:
    assert verdict(ratio) == words


def test_a_strangers_time_is_shown_as_short_text() -> None:
    said = sentence({"runtime": "a\x1b[31m" + "b" * 500, "latency_s": "fast", "ratio": None})
    assert len(said) < 250
    assert "\x1b" not in said
