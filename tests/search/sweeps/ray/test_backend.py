"""Sweeps on Ray Tune: the policies of one process, and workers that die, hang or fail."""

import contextlib
import io
import json

import psutil
import pytest

from tests.search.sweeps.ray.cases import LOCAL, Command, Nodes, policies

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


def listening() -> set[tuple[str, str, int]]:
    """Return the sockets other than at 127.0.0.1 on which the Ray processes of this machine listen."""
    sockets = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            for socket in process.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN and socket.laddr.ip not in ("127.0.0.1", "::ffff:127.0.0.1"):
                    sockets.add((process.name(), socket.laddr.ip, socket.laddr.port))
    return sockets


def test_a_cluster_of_this_machine_gives_the_figures_of_one_process_and_leaves_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.sweeps.ray import backend

    heard: list[object] = []
    tune = backend._tune
    monkeypatch.setattr(backend, "_tune", lambda *given: (tune(*given), heard.append(listening())))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    path = command.write("ray", 'backend = "ray"\nworkers = 2', "{ sleep = 0.5 }")  # long enough that two run at once on a busy machine
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert command.here("sweep", path, "--log", "json")[0] == 0
    lines = [json.loads(line) for line in err.getvalue().splitlines() if line.startswith("{")]
    states = [line for line in lines if "per_second" in line]
    assert {state["workers"] for state in states} == {2}
    assert {state["busy"] for state in states} <= {0, 1, 2}
    assert max(state["busy"] for state in states) == 2
    assert lines[-1]["timings"]["workers"] == 2
    phases = [line["phase"] for line in lines if "phase" in line]
    told = ["packing the network for workers of a cluster of this machine", "starting a cluster of this machine"]
    assert [phase for phase in phases if phase in told or "the first of 2 workers" in phase][:2] == told
    assert policies(command.rows("ray")) == policies(command.local("{ sleep = 0.001 }"))
    assert heard == [set()], "every socket is on 127.0.0.1"
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    _gone, alive = psutil.wait_procs(left, timeout=300)
    assert not alive


def test_a_worker_that_dies_and_one_that_hangs_lose_nothing(command: Command, nodes: Nodes, patience: int) -> None:
    trouble = command.folder / "trouble"
    trouble.mkdir()
    options = f'{{ trouble = "{trouble}" }}'
    rows = command.sweep("ray", nodes.run(f"trial_timeout_s = {patience}\nmax_retries = 2"), options)
    assert sorted(path.name for path in trouble.iterdir()) == ["die", "hang"], "both really happened"
    assert [row["trial"] for row in rows] == list(range(14))
    assert {row["status"] for row in rows} == {"ok"}
    assert policies(rows) == policies(command.local(options))


def test_a_policy_that_hangs_every_time_is_recorded_with_the_limit(command: Command, nodes: Nodes, patience: int) -> None:
    rows = command.sweep("ray", nodes.run(f"trial_timeout_s = {patience}\nmax_retries = 0"), "{ hangs = 4 }", "uniform", trials=3)
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"], "two baselines have two-bit weights"
    assert {row["reason"] for row in rows[:2]} == {f"no result within trial_timeout_s = {patience} s"}


def test_policies_that_always_fail_are_recorded_with_their_reason(command: Command, nodes: Nodes) -> None:
    """NaN, an exception and a lack of memory, as the second layer's weights have it."""
    options, seed = "{ breaks = 4, mixed = true }", "search.seed=3"
    assert command.here("sweep", command.write("local", LOCAL, options), seed, "--log", "plain")[0] == 0
    local = command.rows("local")
    assert {str(row["reason"]).split(":")[0] for row in local} == {"", "BitfrontError", "MemoryError", "RuntimeError"}
    path = command.write("ray", nodes.run("max_retries = 1"), options)
    code, out, err = command("sweep", path, seed, "--log", "plain")
    assert code == 0, err
    assert out.split()[0] == "ray", "nothing else on standard output"
    rows = command.rows("ray")
    assert [row["trial"] for row in rows] == list(range(14))
    assert f"{sum(row['status'] == 'failed' for row in rows)} attempts made again" in err
    assert policies(rows) == policies(local)
    assert {row["id"]: row["reason"] for row in rows} == {row["id"]: row["reason"] for row in local}


@pytest.mark.slow
def test_any_number_of_workers_finds_the_same_policies(command: Command, nodes: Nodes) -> None:
    run = nodes.run("cpus_per_trial = 0.5").replace("workers = 2", "workers = 4")
    assert command.here("sweep", command.write("there", run, searcher="ilp", trials=10), "--log", "plain")[0] == 0
    assert policies(command.rows("there")) == policies(command.local(searcher="ilp", trials=10))
