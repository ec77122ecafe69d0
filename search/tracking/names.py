"""The names that MLflow shows, shared by every sweep so that runs of several sweeps can be compared side by side."""

import os
import re

KIND = "bitfront.kind"  # sweep, trial or comparison
SWEEP = "bitfront.sweep"
TRIAL = "bitfront.trial"
UID = "bitfront.trial_uid"
PARETO = "bitfront.pareto"
KNEE = "bitfront.knee"
UNIFORM = "bitfront.uniform"  # a uniform policy within the limits: a point to hold fronts against
CHARTED = "bitfront.charted"  # on the front, or uniform: what the view of fronts shows
STATUS = "bitfront.status"
REASON = "bitfront.reason"
EXAMPLES = "bitfront.examples_valid"  # validation examples that the evaluation ran through
SEARCHER = "bitfront.searcher"
POLICY = "bitfront.policy"  # its id
SUGGESTED = "bitfront.suggested"  # id of the policy to take where nothing else is asked for
RECORD = "bitfront.record"  # the exact record, in as many tags as it needs
LAYERS = "bitfront.layers"  # names of the layers, once per sweep
FRONT = "bitfront.front"  # the front and its knee as the trials' tags show it, on the parent run
SPOOL = "bitfront.spool"  # folder of the local journal, on the driver's machine
MEASURED = "bitfront.measured"  # on the run of a trial: its number, and its times in real runtimes by RUNTIME.THREADS
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
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_USERINFO = re.compile(r"(?<=://)(?:[^/\s'\"]+|[^/:@\s'\"]*:(?!\d+/)[^\s'\"]+)@")  # the second form has a "/" in its password
_IN_PATH = re.compile(r"(?<=/)[^/:@\s'\"]+:[^/\s'\"]+@")
# A password with quotes or blanks in it: an address that is all of a text, or stands in quotes up to their end.
_WHOLE = re.compile(r"\A([\w.+-]+:/{2,})[^/:@\n]*:(?!\d+(?:[/\s]|$))[^@\n]*@")
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<scheme>[\w.+-]+:/{2,})[^/:@\s'"]*:(?!\d+[/\s'"])(?:\\.|(?!(?P=quote))[^\n\\@])*@""")
_QUERY = re.compile(
    r"((?:(?<=[?&;])|(?<=%3B))[\w.-]*(?:password|passwd|pwd|token|secret|credential|signature|api[_-]?key|access[_-]?key)"
    r"|(?<=\s)(?:password|passwd|pwd))(=|%3D)(?:(?!%3B)[^&;\s'\"])+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Blank out user names and passwords in addresses, and the values of credential variables, wherever they stand.

    `//user:word@` with any number of slashes, `/user:word@` also in the path of a file, `?password=word` and its like, also where they are
    quoted for ODBC or stand apart as for libpq.
    """
    for name in SECRETS:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    text = _QUOTED.sub(r"\g<quote>\g<scheme>***@", _WHOLE.sub(r"\1***@", text))
    return _QUERY.sub(r"\1\2***", _IN_PATH.sub("***@", _USERINFO.sub("***@", text)))


def trial_uid(run_id: str, number: int) -> str:
    """Return the identity of a trial: what keeps a replay from writing it twice."""
    return f"{run_id}:{number}"
