"""A tracking server that fails in ten ways while a sweep is recorded, and then answers again."""

import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.torture.child import Child, add
from benchmarks.torture.record import empty_store, faults
from search.tracking.server import HOST, serve

COUNT = 12
MODES = ("500", "502", "503", "429", "401", "no JSON", "half an answer", "closed", "answer lost", "slow")


class _Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, but the next `left` ones to its `mode` of failure."""

    daemon_threads = True
    mode, left, behind = "", 0, 0


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.0"

    def log_message(self, *_given: object) -> None:
        """Say nothing."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._pass

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fails, mode = self.server.left > 0, self.server.mode
        self.server.left -= fails
        if fails and mode == "slow":
            time.sleep(12)  # longer than the client waits
        if fails and mode not in ("answer lost", "slow"):
            return self._fail(mode)
        upstream = HTTPConnection(HOST, self.server.behind, timeout=60)
        upstream.request(self.command, self.path, body, {"Content-Type": self.headers.get("Content-Type", "application/json")})
        answer = upstream.getresponse()
        data = answer.read()
        if not fails:
            self._answer(answer.status, data)
        return None

    def _fail(self, mode: str) -> None:
        if mode.isdigit():
            self._answer(int(mode), b'{"error_code": "INTERNAL_ERROR", "message": "out of order"}')
        elif mode != "closed":
            self._answer(200, b"<html>" if mode == "no JSON" else b'{"runs": [', cut=mode == "half an answer")

    def _answer(self, status: int, data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) + 50 * cut))
        self.end_headers()
        self.wfile.write(data)


def attack(tries: int, rng: random.Random) -> dict[str, int]:
    """Record one sweep per failure; the outage begins at its first trial and lasts for some requests."""
    total = {"lost": 0, "duplicated": 0, "untidy": 0}
    with socket.create_server((HOST, 0)) as probe:
        port = int(probe.getsockname()[1])
    for number in range(tries):
        with tempfile.TemporaryDirectory(prefix="torture-server-") as folder:
            store = f"sqlite:///{folder}/server.db"
            (Path(folder) / "server.db").write_bytes(empty_store())
            process = serve(store, port)
            proxy = _Proxy((HOST, 0), _Handler)
            proxy.behind = port
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            try:
                add(total, _one(Path(folder), proxy, store, MODES[number % len(MODES)], rng))
            finally:
                proxy.shutdown()
                process.terminate()
                process.communicate()
    return total


def _one(folder: Path, proxy: _Proxy, store: str, mode: str, rng: random.Random) -> dict[str, int]:
    said: set[int] = set()
    child = Child(folder, said, "--trials", str(COUNT), "--seconds", "0.1", "--uri", f"http://{HOST}:{proxy.server_port}")
    child.begun.wait(600)
    proxy.mode, proxy.left = mode, rng.randint(1, 4)
    code = child.wait()
    if code:
        print(f"{mode}: exit code {code}: {child.errors}", file=sys.stderr)
    result = dict(faults(store, COUNT, set(range(COUNT))))
    left = [path for path in (folder / ".bitfront").iterdir() if path.name != "mlflow.lock"]
    return result | {"untidy": (code != 0) + len(left)}
