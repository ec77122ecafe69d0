"""The connection to MLflow: opening a store safely, experiments, and errors without credentials. Imports mlflow: load it late."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import replacing
from quant_core.util.process import Shared, environment, log_levels
from search.tracking.checks import require_usable
from search.tracking.moved import artifacts_beside, follow
from search.tracking.names import QUIET, redact

with environment(QUIET):  # mlflow reads them when it is imported, and again at every request: see `quiet`
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

__all__ = [
    "Dataset",
    "DatasetInput",
    "InputTag",
    "Metric",
    "MlflowClient",
    "Param",
    "RunTag",
    "ViewType",
    "connect",
    "experiment_id",
    "explain",
    "get_artifact_repository",
    "is_permanent",
    "quiet",
    "reported",
]


@contextmanager
def _quietened() -> Iterator[None]:
    # mlflow logs tracebacks of what it then raises, and what it raises is reported here
    with environment(QUIET), log_levels({"alembic": logging.WARNING, "mlflow": logging.CRITICAL}):
        yield


quiet = Shared(_quietened)
"""How the process is while something here talks to a store: MLflow sends no telemetry, does not retry by itself and logs nothing."""
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")


def connect(uri: str, folder: Path) -> MlflowClient:
    """Open a tracking store, creating its tables where it is new.

    Two processes that create the tables of one SQLite file at a time break it for good, so this happens under a lock in `folder`;
    and so does a process that is killed on the way, so a new file is made beside its place and moved there whole.

    Raises:
        BitfrontError: the store cannot be reached.
    """
    if uri.startswith(("file:", "/", ".")) or "://" not in uri:
        raise InputError(f"tracking uri {redact(uri)!r} given; write sqlite:///FILE.db, http(s)://HOST or postgresql://...")
    with _locked(folder / "mlflow.lock"), reported(uri):
        _make_tables(uri)
        require_usable(uri)
        follow(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Return the id of an experiment, creating it where it is new; its artifacts lie next to a SQLite file.

    Raises:
        InputError: the experiment was deleted, or its name would lead to another folder.
        BitfrontError: the store cannot be reached.
    """
    if name.strip(". ") == "":
        raise InputError(
            f"MLflow experiment {name!r} given; a name with a letter or a digit is needed: it names the folder of its artifacts."
        )
    with reported(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return client.create_experiment(name, artifact_location=_artifact_root(uri, name))
            except MlflowException:  # somebody else created it meanwhile
                experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise BitfrontError(f"cannot create the MLflow experiment {name!r} at {redact(uri)}.")
    if experiment.lifecycle_stage != "active":
        raise InputError(f"the MLflow experiment {name!r} was deleted; restore it in the MLflow UI or choose another [track] experiment.")
    return str(experiment.experiment_id)


def explain(error: BaseException) -> str:
    """Return the first line of an error, short and without credentials."""
    return redact(f"{type(error).__name__}: {error}".splitlines()[0])[:300]


def is_permanent(error: BaseException) -> bool:
    """Tell whether sending the same again cannot help (the store refused it, or it is no record), as against a store that is away."""
    damaged = isinstance(error, LookupError | TypeError | AttributeError) or (type(error) is BitfrontError and "is damaged" in str(error))
    return damaged or (isinstance(error, MlflowException) and error.error_code in _REFUSALS)


@contextmanager
def reported(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises into one readable error; MLflow's client is quiet meanwhile."""
    try:
        with quiet.held():
            yield
    except (BitfrontError, KeyboardInterrupt):
        raise
    except Exception as error:
        said = explain(error)
        refused = "error code 401" in said or "error code 403" in said
        hint = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD." if refused else "Is the address right and the server running?"
        raise BitfrontError(f"MLflow at {redact(uri)} failed: {said}. {hint}") from None


def _make_tables(uri: str) -> None:
    """Make the SQLite file of `uri`, where there is none."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or "?" in uri or path.name == ":memory:" or (path.exists() and path.stat().st_size):
        return
    with replacing(path) as temporary:
        new = f"sqlite:///{temporary}"
        MlflowClient(tracking_uri=new, registry_uri=new).search_experiments(max_results=1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise BitfrontError(f"cannot write {path}: {error.strerror}; make its folder writable or start elsewhere.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _artifact_root(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files; None leaves it to the server."""
    if uri.startswith(("http://", "https://")):
        return None
    return artifacts_beside(uri if uri.startswith("sqlite:///") else "", quote(experiment, safe=""))
