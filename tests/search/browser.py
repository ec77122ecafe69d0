"""Chromium, headless, driven by the few verbs of the W3C WebDriver protocol that tests of pages need."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PICTURES = Path(os.environ.get("BITFRONT_SCREENSHOTS", "out/screenshots")).absolute()
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --window-size=1600,1000"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Browser:
    """The few verbs of the W3C WebDriver protocol that these tests need."""

    def __init__(self, driver: str, profile: Path) -> None:
        options = {"args": [*FLAGS.split(), f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        self._base = driver
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._base = f"{driver}/session/{session['sessionId']}"

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.loads(error.read())["value"]["message"]) from None

    def open(self, address: str) -> None:
        """Load an address once: MLflow takes up a shared view only from an address that it has not yet rewritten, so never reload."""
        self._call("POST", "/url", {"url": f"{address.partition('/#')[0]}/health"})  # of the same origin, and not the application
        for key, value in (("panelOpen_v1", "false"), ("fab.autoOpenedOnFirstLoad_v1", "true")):  # a panel that covers a third of it
            self.script("localStorage.setItem(arguments[0], arguments[1])", f"mlflow.assistant.{key}", value)
        self._call("POST", "/url", {"url": address})

    def script(self, code: str, *arguments: object) -> Any:
        return self._call("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def wait(self, code: str, seconds: float = 300.0) -> Any:
        """Return the value of a piece of script once it is a true one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = self.script(code)
            if value:
                return value
            time.sleep(0.3)
        self.picture("failed")
        raise AssertionError(f"{code!r} gave nothing in {seconds} s; the page says: {self.text()[:1500]}")

    def enter_frame(self) -> None:
        self.wait("return document.querySelector('iframe') !== null")
        frame = self._call("POST", "/element", {"using": "css selector", "value": "iframe"})
        self._call("POST", "/frame", {"id": {ELEMENT: frame[ELEMENT]}})

    def leave_frame(self) -> None:
        self._call("POST", "/frame", {"id": None})

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self) -> None:
        self._call("DELETE", "")

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Let pages that are opened from now on have this width and height in CSS pixels, as on a telephone, and this colour scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        for command, parameters in (("Emulation.setDeviceMetricsOverride", metrics), ("Emulation.setEmulatedMedia", scheme)):
            self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def load(self, address: str) -> None:
        """Load an address as it is, also that of a file."""
        self._call("POST", "/url", {"url": address})


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Give a browser that keeps its profile in a folder; skip the test where there is none."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are needed: apt-get install chromium chromium-driver")
    port = free_port()
    with subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        browser = Browser(f"http://127.0.0.1:{port}", folder)
        yield browser
        browser.close()
        driver.terminate()
