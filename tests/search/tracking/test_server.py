"""An MLflow server on PostgreSQL behind basic authentication, as a team runs it: credentials, outages, several sweeps at once."""

import base64
import http.client
import logging
import os
import pickle
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError
from search import tracking
from search.tracking.server import serve
from tests.forked import Started
from tests.search.tracking.cases import MakeSweep, expected

pytestmark = pytest.mark.postgres
ROOT = Path(__file__).parents[3]
PROGRAMS = os.pathsep.join([os.environ["PATH"], *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)])  # Debian's
USER, PASSWORD = "alice", "open-sesame-77"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server of our own (which refuses to run as root) and return its address."""
    initdb, pg_ctl = (shutil.which(name, path=PROGRAMS) for name in ("initdb", "pg_ctl"))
    if initdb is None or pg_ctl is None:
        pytest.skip(f"initdb and pg_ctl are needed: apt-get install postgresql (looked in {PROGRAMS})")
    pytest.importorskip("psycopg2", reason="the PostgreSQL driver is needed: pip install bitfront[postgres]")
    folder, port = Path("/tmp") / f"bitfront-pg-{os.getpid()}", free_port()
    folder.mkdir()
    shutil.chown(folder, "nobody") if os.geteuid() == 0 else None
    user = "nobody" if os.geteuid() == 0 else None

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    secret = folder / "secret"
    secret.write_text("pg-hidden-99\n")
    secret.chmod(0o644)
    run(initdb, "-D", "data", "-U", "mlflow", "--auth=scram-sha-256", "--pwfile=secret", "--no-sync")
    flags = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder} -c fsync=off"
    run(pg_ctl, "-D", "data", "-w", "-l", "log", "-o", flags, "start")
    yield f"postgresql+psycopg2://mlflow:pg-hidden-99@127.0.0.1:{port}/postgres"
    run(pg_ctl, "-D", "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


class Gate(ThreadingHTTPServer):
    """Lets through to the server behind only who gives the password, and nobody while it is closed."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        self.behind, self.closed = behind, False
        self.refused = 0


class Passage(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        gate = self.server
        assert isinstance(gate, Gate)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        if gate.closed:
            return
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            gate.refused += 1
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            return
        behind = http.client.HTTPConnection("127.0.0.1", gate.behind, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "authorization", "connection")}
        behind.request(self.command, self.path, body or None, headers | {"Host": f"127.0.0.1:{gate.behind}"})
        answer = behind.getresponse()
        data = answer.read()
        behind.close()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def gate(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(folder / "artifacts"))
        server = serve(database, port)
        opened = Gate(port)
        thread = threading.Thread(target=opened.serve_forever, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        opened.server_close()
        thread.join()
        server.terminate()
        server.wait()
        assert server.stderr is not None
        server.stderr.close()


@pytest.fixture
def uri(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    gate.closed = False
    return f"http://127.0.0.1:{gate.server_address[1]}"


def test_a_sweep_reads_back_through_the_server(uri: str, make_sweep: MakeSweep) -> None:
    from search.tracking.client import MlflowClient

    sweep = make_sweep("served", trials=12)
    tracker = tracking.start(uri, "bitfront", sweep, {"searcher": "random"})
    for trial in sweep.trials:
        tracker.record(trial)
    tracker.update_front([0, 1], 0, 0.5)
    assert tracker.finish("finished")
    assert tracking.read(uri, "served") == expected(sweep, tracker.run_id)
    assert tracking.read(uri, tracker.run_id, "bitfront").name == "served"
    assert {artifact.path for artifact in MlflowClient(uri).list_artifacts(tracker.run_id)} == {"experiment.toml", "front.json"}
    for path in Path().rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


def test_wrong_credentials_are_an_error_that_does_not_repeat_them(uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-word-55")
    with pytest.raises(BitfrontError, match=r"MLflow at http://127\.0\.0\.1:\d+ failed: .*401.*Set MLFLOW_TRACKING_USERNAME and") as caught:
        tracking.start(uri, "bitfront", make_sweep(), {})
    assert "not-the-word-55" not in str(caught.value)


def test_a_server_that_goes_away_costs_a_warning(uri: str, gate: Gate, make_sweep: MakeSweep, caplog: pytest.LogCaptureFixture) -> None:
    sweep = make_sweep("outage", trials=24)
    tracker = tracking.start(uri, "bitfront", sweep, {"searcher": "random"})
    with caplog.at_level(logging.WARNING, logger="bitfront.tracking"):
        for trial in sweep.trials:
            if trial.number == 8:
                gate.closed = True
            if trial.number == 20:
                deadline = time.monotonic() + 300
                while not caplog.records and time.monotonic() < deadline:
                    time.sleep(0.05)
                gate.closed = False
            tracker.record(trial)
            time.sleep(0.1)
        assert tracker.finish("finished")
    said = [record.getMessage() for record in caplog.records]
    assert [text[:22] for text in said] == ["MLflow does not answer", "MLflow is back; sendin"]
    assert tracker.blocked_s / 24 < 0.015
    assert tracking.read(uri, "outage") == expected(sweep, tracker.run_id)


WRITER = """
import pickle, sys
sys.path.insert(0, {root!r})
from search import tracking
sweep = pickle.loads(open(sys.argv[1], "rb").read())
tracker = tracking.start({uri!r}, "stress", sweep, {{"searcher": sweep.name}})
for trial in sweep.trials:
    tracker.record(trial)
sys.exit(0 if tracker.finish("finished") else "not complete")
"""


def test_four_sweeps_at_once_are_all_complete_and_not_mixed_up(uri: str, make_sweep: MakeSweep) -> None:
    sweeps = [make_sweep(f"stress-{i}", trials=40, seed=i) for i in range(4)]
    for sweep in sweeps:
        Path(sweep.name).write_bytes(pickle.dumps(sweep))
    code = WRITER.format(root=str(ROOT), uri=uri)
    writers = [Started(sweep.name, script=code) for sweep in sweeps]
    ends = [writer.communicate(timeout=1200)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, ends
    for sweep in sweeps:
        read = tracking.read(uri, sweep.name, "stress")
        assert read == expected(sweep, read.run_id)
    assert len({row.run_id for row in tracking.sweeps(uri, "stress")}) == 4
