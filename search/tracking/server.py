"""Starting MLflow's own web interface on a sweep's store, on this machine only."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from quant_core.util.errors import BitfrontError, InputError
from search.tracking.names import QUIET, redact

HOST = "127.0.0.1"
START_S = 180.0


def serve(uri: str, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server on a store and return once it answers; the caller ends it.

    Its background jobs are off (they take a gigabyte and nothing here uses them). The store's address goes in through the environment,
    where other users of the machine do not see it.

    Raises:
        InputError: the store is a server already, or the port is taken.
        BitfrontError: it does not come up.
    """
    if uri.startswith(("http://", "https://")):
        raise InputError(f"{redact(uri)} is an MLflow server already; open it in a browser.")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise InputError(f"no record at {redact(uri)}. Run this where the sweep ran, or give --uri.")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise InputError(f"port {port} is taken on {HOST}; give another one with --port.")
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri, **QUIET}
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + START_S
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            said = process.communicate(timeout=30)[1].decode(errors="replace").strip().splitlines()[-3:]
            raise BitfrontError(f"MLflow's server did not start: {redact(' '.join(said))}")
        time.sleep(0.2)
    return process


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
