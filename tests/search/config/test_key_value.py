"""KEY=VALUE: one way to split it, one to read a value, and text fields that keep text."""

import pytest

from quant_core.util.errors import InputError
from search.config.files import loads
from search.config.key_value import key_value, task_options, toml_value

GOOD = '[task]\nname = "digits"\n[space]\nweight = ["int4:channel"]\nactivation = "int8:tensor"\n[device]\nname = "counts"\n'


def test_the_first_equals_sign_splits() -> None:
    assert key_value(" uri = http://x?a=b ", "option", "KEY=VALUE", "a=1") == ("uri", "http://x?a=b")
    assert key_value("a=", "option", "KEY=VALUE", "a=1") == ("a", "")


@pytest.mark.parametrize("text", ["", "seed", "=3", " = 3"])
def test_what_has_no_key_or_no_sign_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"task option '{text}' is not of the form key=value, for example seed=1\."):
        key_value(text, "task option", "key=value", "seed=1")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ('["a", 1]', ["a", 1]), ('"3"', "3"), ("a b", "a b"), ("1\nx = 2", "1\nx = 2")],
)
def test_values_are_toml_or_text(text: str, value: object) -> None:
    assert toml_value(text) == value


def test_task_options_are_a_table() -> None:
    assert task_options(["seed=3", "network=resnet8", "path=/a=b"]) == {"seed": 3, "network": "resnet8", "path": "/a=b"}


@pytest.mark.parametrize("text", ["inf", "nan", "123", "1e5", "true", "0x10", "2026-11-28", "12_3"])
def test_text_fields_keep_what_looks_like_a_number(text: str) -> None:
    experiment = loads(GOOD, overrides=[f"name={text}", f"track.experiment={text}", f"task.name={text}"])
    assert (experiment.name, experiment.track.experiment, experiment.task.name) == (text, text, text)


def test_other_fields_read_toml_and_quotes_still_count() -> None:
    overrides = ["search.trials=7", "task.options.name=123", 'name="plain"', 'run.backend="ray"', "search.options.x=inf"]
    experiment = loads(GOOD, overrides=overrides)
    assert (experiment.search.trials, experiment.task.options, experiment.name) == (7, {"name": 123}, "plain")
    assert experiment.search.options == {"x": float("inf")}
    with pytest.raises(InputError, match=r"\[evaluate.fidelity\] '1' given; input should be 'ptq' or 'qat'"):
        loads(GOOD, overrides=["evaluate.fidelity=1"])
