"""How the evaluator gets to workers: pickled once in the driver, with what a worker needs to import before it unpickles it."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.parts import refused_part
from search.sweeps.backend import PolicyEvaluator
from search.sweeps.ray.placement import sent

LARGEST_SOURCE = 2**20
"""Modules with a longer source stay behind."""
_OURS = ("bitfront", "search", "spaces", "hw_models", "quant_core")
ABSENT = ("ModuleNotFoundError", "ImportError", "FileNotFoundError", "NotADirectoryError", "PermissionError")
"""Errors that tell of a machine, not of a policy."""


class WorkerError(RuntimeError):
    """A worker cannot evaluate any policy: the sweep ends, and nothing is tried again."""


@dataclass(frozen=True)
class UserModule:
    """The source of a module that is neither Python's, nor installed, nor ours."""

    source: str
    file: str
    package: bool


@dataclass(frozen=True, eq=False)
class SentEvaluator:
    """An evaluator as bytes, and how a worker gets to import what they name.

    Attributes:
        content: the pickled evaluator, uint8 [N], which Ray's object store gives to all workers of a node without a copy.
        path: the driver's import path without Python's own folders; goes before the worker's own, where a folder exists there.
        folder: the driver's working directory; a worker goes there too where it exists.
        modules: sources of the user's modules by name, for a machine that does not have their files.
        task: module that makes the task, to be imported before anything is unpickled; "" where an object was given.
    """

    content: "np.ndarray[Any, np.dtype[np.uint8]]"
    path: tuple[str, ...]
    folder: str
    modules: Mapping[str, UserModule]
    task: str

    def opened(self) -> PolicyEvaluator:
        """Return this process's own copy of the evaluator.

        Raises:
            WorkerError: it cannot be had here.
        """
        try:
            self._prepare()
            from ray import cloudpickle

            evaluator: PolicyEvaluator = cloudpickle.loads(self.content.data)
        except BaseException as error:  # what a user's module raises while it is imported may be anything
            kind, text = type(error).__name__, " ".join(str(error).split())
            raise WorkerError(advice(kind, text, os.uname().nodename, self.content.nbytes)) from error
        return evaluator

    def _prepare(self) -> None:
        """Make this process import as the driver does."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        sys.path[:0] = [entry for entry in self.path if entry not in sys.path and Path(entry).exists()]
        sys.meta_path.append(_SentModules(self.modules))
        importlib.invalidate_caches()
        if self.task:
            importlib.import_module(self.task)


def advice(kind: str, text: str, node: str, size: int = 0) -> str:
    """Return the sentence on an error of a node that is no policy's, with a remedy."""
    where = f"a worker on {node}"
    if kind in ("ModuleNotFoundError", "ImportError"):
        return f"{where} cannot import what the task needs: {text}. Install it there: every node needs the driver's environment."
    if kind in ABSENT:
        return f"{where} cannot read a file of the task: {text}. Put it at the same path on every node, or hold what it has in tensors."
    if kind == "MemoryError":
        return f"{where} has no memory for the network ({size / 2**20:.0f} MiB): give fewer run.workers, or raise its limit (ulimit -v)."
    return f"{where} cannot take the task: {kind}: {text}. Mend it (see `pickle`), or give run.backend = 'local'."


def shipped(evaluator: PolicyEvaluator, task: str) -> SentEvaluator:
    """Return the evaluator as it goes to workers; `task` is the name of its task in the experiment.

    Raises:
        InputError: something in it cannot be pickled; the message names the attribute.
    """
    from ray import cloudpickle

    try:
        content = cloudpickle.dumps(sent(evaluator))
    except Exception as error:
        path, value = refused_part(evaluator, cloudpickle.dumps)
        where = path.removeprefix("_task.") or "the task"
        raise InputError(
            f"the task cannot be sent to workers: {where} is a {type(value).__name__}, which cannot be pickled "
            f"({type(error).__name__}: {error}). Make it where it is used, leave it out in __getstate__, or give run.backend = 'local'."
        ) from error
    module = task.partition(":")[0] if ":" in task and task.partition(":")[0] in sys.modules else ""
    return SentEvaluator(np.frombuffer(content, np.uint8), _path(), str(Path.cwd()), user_modules(), module)


def _own_folders() -> tuple[str, ...]:
    """Return the folders of Python, of what is installed, and of bitfront."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(str(Path(folder)) for folder in installed)


def _path() -> tuple[str, ...]:
    installed = _own_folders()
    entries = [str(Path(entry or ".").resolve()) for entry in [*sys.path, ""]]
    return tuple(dict.fromkeys(entry for entry in entries if not entry.startswith((*installed, sys.base_prefix + "/lib"))))


def user_modules() -> dict[str, UserModule]:
    """Return the sources of the modules that this process has imported and a worker may not have."""
    installed, modules = _own_folders(), {}
    for name, module in list(sys.modules.items()):
        file = _source_file(module)
        if file is None or file.startswith(installed) or "site-packages" in file or name.partition(".")[0] in _OURS or name == "__main__":
            continue
        path = Path(file)
        if path.is_file() and path.stat().st_size <= LARGEST_SOURCE:
            modules[name] = UserModule(path.read_text(encoding="utf-8", errors="replace"), file, path.name == "__init__.py")
    return modules


def _source_file(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    return str(Path(file).resolve()) if isinstance(file, str) and file.endswith(".py") else None


class _SentModules(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finds modules by the sources that came with an evaluator, where nothing else does."""

    def __init__(self, modules: Mapping[str, UserModule]) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module that was sent."""
        if fullname not in self._modules:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=self._modules[fullname].package)

    def get_source(self, fullname: str) -> str:
        """Return its text."""
        return self._modules[fullname].source

    def get_filename(self, fullname: str) -> str:
        """Return where its file lies in the driver."""
        return self._modules[fullname].file

    def is_package(self, fullname: str) -> bool:
        """Tell whether it is a package."""
        return self._modules[fullname].package


def failed_with(message: str) -> BitfrontError:
    """Return the error of a sweep that a worker's fault ended."""
    return BitfrontError(f"{message} No trial was tried again; those that had ended are recorded.")
