"""Which cluster an address means, and that one which does not answer is named within seconds."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from quant_core.util.errors import InputError
from search.sweeps.ray import cluster
from search.sweeps.ray.cluster import located
from search.sweeps.ray.placement import Placement

SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.fixture
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a server that sends what the test gives."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(request.param)
                connection.recv(100)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which `ray start` notes its address."""
    path = tmp_path / "ray_current_cluster"
    monkeypatch.setattr("ray._private.utils.get_ray_address_file", lambda _folder: str(path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return path


@pytest.mark.parametrize("listener", [SETTINGS], indirect=True)
def test_auto_is_the_address_in_the_environment_then_the_last_start_of_this_user(
    listener: str, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_probe", lambda _address, _source: None)
    assert located("") == ""
    assert located(listener) == listener
    noted.write_text("10.0.0.1:6379\n")
    assert located("auto") == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert located("auto") == "10.0.0.2:6379"
    monkeypatch.undo()
    assert located(listener) == listener, "what speaks as gRPC does is taken for a head"


@pytest.mark.parametrize("listener", [b"HTTP/1.0 400 no\r\n\r\n", b""], indirect=True, ids=["another server", "nothing is said"])
def test_what_is_no_cluster_is_refused(listener: str, noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PROBE_S", 0.2)
    monkeypatch.setenv("RAY_ADDRESS", listener)
    with pytest.raises(InputError, match=rf"cannot connect to Ray at '{listener}' of RAY_ADDRESS: .*Start a head with `ray start --head`"):
        located("auto")


def test_auto_without_a_cluster_or_with_a_strangers_is_refused(noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'auto' given, and no cluster runs here \(.*absent\). Start a head"):
        located("auto")
    noted.write_text("127.0.0.1:6379")
    own = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: own + 1)
    with pytest.raises(InputError, match=r"'127.0.0.1:6379', was started by another user .*Give run.address = '127.0.0.1:6379' to join it"):
        located("auto")
    monkeypatch.undo()


def test_a_trial_that_fits_no_node_is_told_of() -> None:
    said: list[str] = []
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    report = lambda text, _done, _total: said.append(text)  # noqa: E731
    cluster._check_room(nodes, Placement(2, 2, 0), report)
    assert not said
    cluster._check_room(nodes, Placement(2, 4, 0), report)
    assert "waiting for a node with room for a trial of 4 CPUs and 0 GPUs; the cluster has 2 CPUs and 0 GPUs" in said[0]


def test_a_cluster_of_this_machine_joins_no_other(tmp_path: Path) -> None:
    """RAY_ADDRESS, or a file of another user, would lead `ray.init` without an address elsewhere."""
    assert cluster._starting(Placement(2, 1, 0), tmp_path)["address"] == "local"
    small, large = (cluster._starting(Placement(2, 1, 0), tmp_path, size)["object_store_memory"] for size in (0, 2**30))
    assert large - small == 2 * 2**30, "a network of 1 GiB fits, beside the copy that Ray makes of it"


@pytest.mark.parametrize(("free", "told"), [(64 * 10**6, 1), (2**40, 0)])
def test_shared_memory_that_is_too_small_is_told_of(free: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives 64 MB; above 10 GB Ray would refuse to keep its object store on a disk."""
    monkeypatch.setattr(cluster, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free))
    said: list[str] = []
    cluster._check_shared_memory(10**9, tmp_path / "ray", lambda text, _done, _total: said.append(text))
    assert len(said) == told
    if told:
        assert "has 64 MB free of the 2,210 MB of Ray's object store, which is kept in" in said[0]
    with cluster.settled():
        assert os.environ["RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"] == "1"


@pytest.mark.parametrize(("address", "told"), [("", 1), ("10.0.0.1:6379", 0)])
def test_shared_memory_is_looked_at_before_a_cluster_is_started_and_not_before_one_is_joined(
    address: str, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_options: object) -> None:
        raise ConnectionError("none here")

    fake = SimpleNamespace(is_initialized=lambda: False, init=init, exceptions=SimpleNamespace(RayError=RuntimeError))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(cluster, "located", lambda name: name)
    monkeypatch.setattr(cluster, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=0))
    said: list[str] = []
    with (
        pytest.raises(InputError, match="cannot connect to Ray"),
        cluster.connected(address, Placement(1, 1, 0), tmp_path, lambda text, _done, _total: said.append(text)),
    ):
        pass
    assert len(said) == told
