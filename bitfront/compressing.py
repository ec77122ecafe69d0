"""Compressing a network from Python, in one call."""

from collections.abc import Mapping
from pathlib import Path

from bitfront.experiments import absolute
from bitfront.isolation import unchanged
from bitfront.sources import TaskSource, open_task, task_name
from search.config.store import DEFAULT_URI
from search.exporters.compress import Compressed
from search.sweeps.phases import LogMode


def compress(
    task: TaskSource,
    target: str,
    out: str | Path,
    *,
    max_drop: float = 0.5,
    minutes: float = 10.0,
    data: str = "",
    task_options: Mapping[str, object] | None = None,
    record: str = DEFAULT_URI,
    force: bool = False,
    log: LogMode = "auto",
) -> Compressed:
    """Compress a network for a device or a runtime: sweep, choose the smallest policy that loses little, export, replay, measure.

    Args:
        task: a `Task`, a function that returns one, or a name, as `bitfront.sweep` takes it; also "hf:FOLDER-OR-ID".
        target: one of `search.config.targets` ("onnxruntime", "openvino", "gguf", "c-array", ...), or a device.
        out: the folder to make; it appears whole or not at all.
        max_drop: points of the task's metric that may be lost, at 90 % confidence.
        minutes: until the last trial; what is done in them is planned (docs/compress.md). 0: no limit. Ctrl-C ends them earlier, and the
            best policy so far is exported.
        data: where the task's data are, where it takes that.
        task_options: keyword arguments of the task's function.
        record: MLflow tracking uri of the record.
        force: replace an earlier export.
        log: progress on standard error, as `bitfront.sweep` takes it.

    Raises:
        InputError: what is given does not fit the network, the target or the data; or `out` exists.
        BitfrontError: no trial ended within the limits, or a check of the export failed; nothing is left behind.

    >>> import bitfront
    >>> done = bitfront.compress("digits", "safetensors", "small", minutes=0.01, log="none")
    >>> done.lines()[0].startswith("size: 119.5 KiB -> ")
    True
    """
    from search.exporters.compress import compress as run

    name, options = task_name(task), dict(task_options or {})
    with unchanged():
        opened = None if isinstance(task, str) else open_task(task, options)
        return run(
            name,
            target,
            Path(out),
            max_drop=max_drop,
            minutes=minutes,
            data=data,
            options=options,
            task=opened,
            record=absolute(record),
            force=force,
            log=log,
        )
