"""The names that MLflow shows, shared by every sweep so that runs of several sweeps can be compared side by side."""

import os
import re

KIND = "bitfront.kind"  # sweep, trial or comparison
SWEEP = "bitfront.sweep"
TRIAL = "bitfront.trial"
UID = "bitfront.trial_uid"
PARETO = "bitfront.pareto"
KNEE = "bitfront.knee"
STATUS = "bitfront.status"
REASON = "bitfront.reason"
SEARCHER = "bitfront.searcher"
POLICY = "bitfront.policy"  # its id
RECORD = "bitfront.record"  # the exact record, in as many tags as it needs
LAYERS = "bitfront.layers"  # names of the layers, once per sweep
FRONT = "bitfront.front"  # the front and its knee as the trials' tags show it, on the parent run
SPOOL = "bitfront.spool"  # folder of the local journal, on the driver's machine
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
COLOR = "mlflow.runColor"

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the writer retries by itself: it must not block for minutes, nor create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_USERINFO = re.compile(r"(?<=://)[^/@\s'\"]+@")
_QUERY = re.compile(r"(?<=[?&])(password|passwd|token|secret)=[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Blank out user names and passwords in addresses (`//user:word@`, `?password=word`), and the values of MLflow's credential
    variables, wherever they stand."""
    for name in SECRETS:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return _QUERY.sub(r"\1=***", _USERINFO.sub("***@", text))


def trial_uid(run_id: str, number: int) -> str:
    """Return the identity of a trial: what keeps a replay from writing it twice."""
    return f"{run_id}:{number}"
