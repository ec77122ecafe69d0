"""Whatever text comes from outside, it is printed as text: no control characters, no markup, no flood."""

import ast
import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from quant_core.spec.policy import Policy
from search import tracking
from search.cli.terminal import Terminal, short_name, styled
from search.records.record import SweepRecord

Call = Callable[..., "subprocess.CompletedProcess[str]"]
HOSTILE = "a[/x]\x1b]0;owned\x07\x1b[2J\u202egnp\x9b[bold]:smile:"
SHOWN = "a[/x]\\x1b]0;owned\\x07\\x1b[2J\\u202egnp\\x9b[bold]:smile:"
CLI = sorted((Path(__file__).parents[3] / "search" / "cli").glob("*.py"))


@pytest.mark.parametrize("color", [False, True])
def test_text_cells_titles_and_styles_are_printed_as_they_are(color: bool) -> None:
    out = io.StringIO()
    console = Terminal(file=out, width=200, highlight=False, force_terminal=color, color_system="standard" if color else None)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(HOSTILE)
    console.print(table)
    console.print(styled(HOSTILE, "red"))
    assert out.getvalue().count(SHOWN) == 5
    assert not {"\x07", "\u202e", "\x9b"} & set(out.getvalue())
    assert "\x1b]" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_a_long_message_is_cut() -> None:
    out = io.StringIO()
    Terminal(file=out, soft_wrap=True).print("x" * 10_000_000)
    assert out.getvalue().endswith("... and 9996000 more characters\n")
    assert len(short_name("x" * 10_000_000)) < 200


def test_front_and_show_of_a_hostile_sweep(store_uri: str, make_sweep: Callable[..., SweepRecord], bitfront: Call) -> None:
    sweep = make_sweep("one", trials=4)
    trials = tuple(
        replace(
            trial,
            origin=HOSTILE,
            policy=Policy({f"{HOSTILE}{name}": layer for name, layer in trial.policy.items()}),
        )
        for trial in sweep.trials
    )
    tracker = tracking.start(store_uri, "bitfront", replace(sweep, name=HOSTILE), {"searcher": "random"})
    for trial in trials:
        tracker.record(trial)
    assert tracker.finish("finished")
    for arguments in (("front",), ("front", "--all"), ("show",)):
        words = [arguments[0], tracker.run_id, *(["knee"] if arguments[0] == "show" else []), *arguments[1:]]
        answer = bitfront(*words, "--uri", store_uri)
        assert answer.returncode == 0, answer.stderr
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(answer.stdout + answer.stderr)
    missing = bitfront("front", "other", "--uri", store_uri)
    assert missing.returncode == 2
    assert "\x1b" not in missing.stderr


@pytest.mark.parametrize("path", CLI, ids=lambda path: path.name)
def test_no_command_prints_by_another_way(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("Console", "rich.print", "print", "sys.stdout.write", "sys.stderr.write"), f"{path.name}:{node.lineno}"
        assert all(keyword.arg != "markup" for keyword in node.keywords), f"{path.name}:{node.lineno}: use styled"
        if called == "typer.echo":
            source = ast.unparse(node.args[0])
            assert source.startswith("json.dumps("), f"{path.name}:{node.lineno}: use say"
