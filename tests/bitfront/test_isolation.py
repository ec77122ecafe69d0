"""Nothing of the caller's process is changed."""

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bitfront
from bitfront.isolation import unchanged


@pytest.fixture
def unusual_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the process other than any default, so that a reset to defaults is seen too."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("BITFRONT_TEST", "mine")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    torch.set_num_threads(2 if threads != 2 else 3)
    signal.signal(signal.SIGTERM, lambda *_: None)
    for name in ("mlflow", "alembic", "ray.tune", "ray"):
        logging.getLogger(name).setLevel(logging.INFO)
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def same_environment() -> Iterator[None]:
    """Undo every change of the environment: `ray.init` sets RAY_AUTH_MODE, and a driver that inherits it cannot use a cluster without."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def snapshot() -> dict[str, Any]:
    """Return everything that a call might change."""
    loggers = [logging.getLogger(), *(entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger))]
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, list(keys), rest),
        "python": random.getstate(),
        "environment": dict(os.environ),
        "loggers": {logger.name: (logger.level, logger.disabled, logger.propagate, list(logger.handlers)) for logger in loggers},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "grad": torch.is_grad_enabled(),
        "folder": Path.cwd(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare two snapshots; loggers that are new do not count."""
    after = after | {"loggers": {name: after["loggers"][name] for name in before["loggers"]}}
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.usefixtures("unusual_process")
def test_a_sweep_in_memory_changes_nothing(task: bitfront.Task, keywords: dict[str, Any]) -> None:
    before = snapshot()
    sweep = bitfront.sweep(task, **keywords)
    sweep.front()
    sweep.plot()
    sweep.model("knee")
    bitfront.evaluate(task, sweep.pick())
    bitfront.quantize(task.model, sweep.pick(), task.calib)
    assert_same(before, snapshot())


@pytest.mark.usefixtures("unusual_process")
def test_a_recorded_sweep_changes_nothing(task: bitfront.Task, keywords: dict[str, Any], in_folder: Path) -> None:
    before = snapshot()
    bitfront.sweep(task, **keywords | {"record": "sqlite:///mlflow.db", "name": "kept"})
    sweep = bitfront.load("kept", task=task)
    sweep.export("knee", in_folder / "out", ["safetensors"])
    assert_same(before, snapshot())


@pytest.mark.ray
@pytest.mark.usefixtures("unusual_process")
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_on_ray_changes_nothing_and_gives_the_same_policies(task: bitfront.Task, keywords: dict[str, Any]) -> None:
    local = bitfront.sweep(task, **keywords)
    before = snapshot()
    sweep = bitfront.sweep(task, **keywords, backend="ray", workers=2)
    assert_same(before, snapshot())
    assert set(sweep.trials()["policy"]) == set(local.trials()["policy"])


def test_what_fails_changes_nothing() -> None:
    before = snapshot()

    def change() -> None:
        with unchanged():
            os.environ["BITFRONT_TEST_NEW"] = "1"
            os.environ.pop("PATH")
            torch.manual_seed(3)
            np.random.seed(3)
            random.seed(3)
            torch.set_num_threads(before["threads"] + 1)
            logging.getLogger().setLevel(logging.CRITICAL)
            logging.getLogger().addHandler(logging.NullHandler())
            warnings.simplefilter("ignore")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyError

    with pytest.raises(KeyError):
        change()
    assert_same(before, snapshot())


def test_a_sweep_runs_outside_the_main_thread(task: bitfront.Task, keywords: dict[str, Any]) -> None:
    names: list[str] = []
    thread = threading.Thread(target=lambda: names.append(bitfront.sweep(task, **keywords).status))
    thread.start()
    thread.join()
    assert names == ["finished"]


@pytest.mark.ray
@pytest.mark.usefixtures("same_environment")
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_the_caller_has_is_used_and_left_running(task: bitfront.Task, keywords: dict[str, Any]) -> None:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        assert bitfront.sweep(task, **keywords, backend="ray", workers=1).status == "finished"
        assert ray.is_initialized()
    finally:
        ray.shutdown()
