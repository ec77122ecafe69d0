"""Bad experiments are one clear message, and nothing is half-written."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MakeExperiment = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


BAD_EXPERIMENTS = {
    "missing section": (("[device]", "[search2]"), r"\[device\] is missing"),
    "unknown key": (("trials = 16", "trails = 16"), r"\[search.trails\] unknown key.*Did you mean 'trials'"),
    "zero bits": (("[2, 4, 8]", "[0, 4]"), "0 bits given; int takes 1 to 16"),
    "33 bits": (("[2, 4, 8]", "[33]"), "33 bits given"),
    "bits in words": (("[2, 4, 8]", '"four"'), "bits = 'four' given"),
    "unknown searcher": (('"tpe"', '"tpee"'), "unknown searcher 'tpee'.*Did you mean 'tpe'"),
    "unknown searcher option": (("seed = 5", "seed = 5\noptions = { starup = 1 }"), "no option 'starup'.*Did you mean 'startup'"),
    "pattern that matches nothing": (
        ("[device]", '[[space.rules]]\nfix = "encoder.*"\nweight = "int8:channel"\n[device]'),
        "'encoder.*' matches nothing",
    ),
    "budget that nothing meets": (("0.3 of float", "0.01 of float"), "no policy can meet the budget weight_bytes"),
    "budget in words": (("0.3 of float", "small"), "'small' given; write a positive number"),
    "unknown objective": (('"latency_s"]', '"latency_ms"]'), "unknown objective.*'latency_ms'"),
    "unknown device": (('"vu9p-bitserial"', '"vu9q"'), "vu9q"),
    "device that cannot run the bits": (("[2, 4, 8]", "[2, 4, 16]"), "layer '0' .linear.: vu9p-bitserial cannot run weight=int16"),
    "unknown task": (('"own_task:make"', '"digit"'), "unknown task 'digit'.*Did you mean 'digits'"),
    "task that is not there": (('"own_task:make"', '"own_task:mak"'), "has no 'mak'.*Did you mean 'make'"),
    "task that returns something else": (
        ('"own_task:make"', '"own_task:not_a_task"'),
        "gave a int; it must return a bitfront.Task",
    ),
    "unknown task option": (("options = {}", "options = { sede = 1 }"), "no option 'sede'.*Did you mean 'seed'"),
    "missing data": (('"own_task:make"', '"fashion_mnist"'), "train-images-idx3-ubyte|BITFRONT_DATA"),
    "nan in a weight": (("options = {}", "options = { nan = true }"), "NaN"),
    "task that raises": (('"own_task:make"', '"own_task:raises"'), "failed with RuntimeError: the disk is gone"),
    "every trial fails": (("options = {}", "options = { breaks = 99, raises = true }"), "no kernel for this policy"),
    "unwritable store": (('uri = "sqlite:///', 'uri = "sqlite:////proc/none'), "/proc/none"),
    "unknown backend": (("[search]", '[run]\nbackend = "cloud"\n[search]'), "unknown backend 'cloud'"),
}


FAILURES = {"task that raises", "every trial fails", "nan in a weight", "unwritable store"}


@pytest.mark.parametrize("case", BAD_EXPERIMENTS)
def test_bad_experiments_are_one_clear_message(run: Run, tmp_path: Path, case: str, experiment: MakeExperiment) -> None:
    change, message = BAD_EXPERIMENTS[case]
    answer = run("sweep", experiment(change=change))
    assert answer.returncode in ({1, 2} if case in FAILURES else {2}), answer.stderr
    assert re.search(message, answer.stderr, flags=re.S), answer.stderr
    assert "Traceback" not in answer.stderr
    assert not answer.stdout
    if case != "every trial fails":
        assert not (tmp_path / "mlflow.db").exists(), "nothing half-written"
