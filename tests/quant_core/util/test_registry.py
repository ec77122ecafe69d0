import json

import pytest

from quant_core.util.errors import InputError
from quant_core.util.registry import about, resolve

TABLE = {"dumps": "json:dumps"}


def test_names_and_own_paths_are_resolved() -> None:
    assert resolve(TABLE, "writer", "dumps") is json.dumps
    assert resolve(TABLE, "writer", "json:loads") is json.loads


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dump", r"unknown writer 'dump'; known: dumps.*Did you mean 'dumps'.*package.module:attribute"),
        ("json:lods", "has no 'lods'.*Did you mean 'loads'"),
        ("no_such_pkg:x", "cannot import 'no_such_pkg'"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(TABLE, "writer", name)


def test_about_reads_the_first_sentence_of_a_thing_or_of_its_module() -> None:
    assert about("quant_core.util.registry:resolve") == "Resolve `name`: an entry of `table`, or the user's own `package.module:attribute`"
    assert about("quant_core.util.registry:ast").startswith("Tables of interchangeable things")
