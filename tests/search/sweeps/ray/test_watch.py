"""The watch over a cluster: a lost raylet or GCS is told of, and a driver that does not leave is ended."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from search.sweeps.ray import watch
from search.sweeps.ray.watch import ClusterWatch, refuses


def nothing(_address: str) -> bool:
    return False


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY_S", "RAYLET_S", "GCS_S", "LEAVE_S"):
        monkeypatch.setattr(watch, name, 0.001)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("gone", "said"), [("/raylet", "the raylet of this node (/raylet) is gone"), ("h:1", "the GCS at h:1 is gone")])
def test_what_is_lost_is_said_and_a_driver_that_stays_is_ended(gone: str, said: str) -> None:
    ended = threading.Event()
    codes: list[int] = []
    with ClusterWatch(lambda address: address == gone, lambda code: (codes.append(code), ended.set())) as watched:
        watched.begin("/raylet", "h:1")
        ended.wait()
    assert watched.lost == said
    assert codes == [1]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("refused", [nothing, lambda _address: True])
def test_a_driver_that_leaves_is_not_ended(refused: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LEAVE_S", 1e6)
    codes: list[int] = []
    with ClusterWatch(refused, codes.append) as watched:
        watched.begin("/raylet", "h:1")
        while refused is not nothing and not watched.lost:
            pass
    assert not codes
    assert bool(watched.lost) == (refused is not nothing)


def test_only_a_refusal_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert not refuses(address)
    assert refuses(address)
    path = f"/tmp/bf-watch-{threading.get_native_id()}"
    assert refuses(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        assert not refuses(path)
    assert refuses(path)
    Path(path).unlink()
