"""The one way to a terminal: text is printed as it is, never parsed as markup, with control characters made visible and long text cut."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from quant_core.util.text import printable

LONGEST = 4_000
"""Characters of one message or cell: about two screens."""
NAME_LIMIT = 120
"""Characters of a layer's or tensor's name in a table."""


class Terminal(Console):
    """A rich console whose texts are plain.

    rich turns every string, whether printed or in a cell or a title of a table, into text by `render_str`; overriding it leaves no way
    around. Styles are given by `styled`, never by markup.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as plain text."""
        return super().render_str(printable(text, LONGEST), **(options | {"markup": False, "emoji": False}))


def terminal(*, stderr: bool = False, soft_wrap: bool = False) -> Terminal:
    """Return a console on standard output or standard error; `soft_wrap` leaves the breaking of lines to the terminal."""
    return Terminal(stderr=stderr, highlight=False, soft_wrap=soft_wrap)


def say(text: str, *, stderr: bool = False) -> None:
    """Print one message, unwrapped."""
    terminal(stderr=stderr, soft_wrap=True).print(text)


def on_a_desktop() -> bool:
    """Tell whether somebody sits at a terminal on a machine with windows, where a browser may be opened."""
    windows = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(windows) and sys.stdout.isatty() and not os.environ.get("SSH_CONNECTION")


def styled(text: str, style: str) -> Text:
    """Return a text in a style ("bold", "red") for a console or a cell."""
    return Text(printable(text, LONGEST), style=style)


def short_name(text: str) -> str:
    """Return a name for a cell of a table, cut where it is very long."""
    return printable(text, NAME_LIMIT)
