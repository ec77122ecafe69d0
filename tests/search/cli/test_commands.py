"""The table of commands: its sentences are those of the commands, and what is only listed is not imported."""

import subprocess
import sys

import pytest

from search.cli.commands import COMMANDS, load

LOADED = "import sys; sys.argv = ['bitfront', *{0}]\nfrom search.cli.app import main\ntry: main()\nexcept SystemExit: pass\n"
COUNTED = "print(len(sys.modules), *[name for name in sys.modules if name.startswith(('search', 'numpy', 'pydantic', 'torch'))])"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    command = load(name)
    assert command.name == name
    assert " ".join(command.help.split()).startswith(COMMANDS[name][1])


@pytest.mark.parametrize(("arguments", "most"), [(["--version"], 330), (["--help"], 450)])
def test_the_list_and_the_version_import_no_command(arguments: list[str], most: int) -> None:
    """The bounds are a sixth above what was counted: 269 and 384 modules, Python's own among them."""
    code = LOADED.format(arguments) + COUNTED
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert int(said[0]) <= most
    ours = {f"search{name}" for name in ("", ".cli", ".cli.app", ".cli.commands", ".cli.json_lines", ".cli.terminal")}
    assert set(said[1:]) == ours
