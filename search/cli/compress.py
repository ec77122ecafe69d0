"""`bitfront compress`: from a network and a target to files in one command."""

import re
from pathlib import Path
from typing import Annotated

import typer

from search.cli.json_lines import json_lines
from search.cli.options import Log, Uri
from search.cli.terminal import say
from search.config.key_value import task_options
from search.config.store import DEFAULT_URI
from search.config.targets import TARGETS


def compress_command(
    model: Annotated[
        str,
        typer.Argument(help="A ready task, hf:FOLDER-OR-ID, module:function that returns a task, or a task file.py."),
    ],
    target: Annotated[str, typer.Option("--for", help=f"{', '.join(TARGETS)}, or a device of `bitfront devices`.")],
    data: Annotated[str, typer.Option("--data", help="Where the task's data are.")] = "",
    option: Annotated[list[str] | None, typer.Option("--option", help="A task option, as key=value; may be repeated.")] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="Points of the metric that may be lost.")] = 0.5,
    minutes: Annotated[
        float,
        typer.Option("--minutes", min=0, help="Until the last trial; the export comes on top. Ctrl-C ends them earlier. 0: no limit."),
    ] = 10.0,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to make; by default MODEL-TARGET.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    log: Log = "auto",
    uri: Uri = DEFAULT_URI,
) -> None:
    """Compress a network for a device or a runtime: sweep, choose the smallest policy that loses little, export, replay, measure.

    The space is what the target runs; searcher, trials and examples follow from the time, in a line that says why. The sweep is recorded as
    any other. After the time, or Ctrl-C, the best policy so far is exported.

    Example: `bitfront compress digits --for onnxruntime --max-drop 0.5 --minutes 1`
    """
    from search.exporters.compress import compress

    folder = out or Path("-".join(re.sub(r"\W+", "-", Path(text).stem).strip("-") for text in (model, target)))
    with json_lines(log):
        done = compress(
            model,
            target,
            folder,
            max_drop=max_drop,
            minutes=minutes,
            data=data,
            options=task_options(option or []),
            record=uri,
            force=force,
            log=log,
        )
    for line in done.lines():
        say(line)
    say(f"{done.record.name} {done.record.run_id}")
