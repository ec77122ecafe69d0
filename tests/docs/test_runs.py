"""The pages' command lines and Python blocks run: in the order of a page, in a folder with the README's default sweep.

A name in capitals stands for what the folder has of its kind (`WORDS`). Sweeps but the default one are cut by `SMALL`; what takes
minutes or a runtime is marked slow. What is not run stands in `NOT_RUN`, or in `ELSEWHERE` with the test that does.
"""

import contextlib
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from quant_core.spec.policy import Policy
from search.cli.app import main
from search.problem.problem import Problem
from search.tasks import load
from tests.docs.test_blocks import PAGES, commands
from tests.docs.test_pages import DOCS, ROOT

pytestmark = pytest.mark.usefixtures("forked")
NOT_RUN = {
    "cost --device": "names an option: it needs a policy",
    "evaluate --network rotate": "names an option: it needs a task",
    "evaluate --policy ... --kv": "names an option: it needs a network with attention; tests/search/sweeps/test_kv_cache.py sweeps one",
    "solve --out": "names an option: it needs a budget",
    "export SWEEP --pick knee -f gguf": "digits is no language model; tests/search/exporters export one",
    "ui SWEEP": "serves until it is stopped; tests/search/tracking/test_view.py opens it in a browser",
    "compress efficientnet_lite0": "ImageNet images; minutes of a sweep on the clock",
    "compress minilm_sts": "pairs of sentences; minutes of a sweep on the clock",
    "compress llama10m": "trains a network for minutes, once",
    "sweep llama10m": "trains a network for minutes, once",
    "evaluate --task T": "the template of the tables in tasks-accuracy.md; tests/search/tasks hold those figures",
    "profile --device-name my-laptop": "measures ResNet-18 for minutes; tests/search/cli/test_profile.py measures a small one",
    "compress stories260k": "reads files of a trained network",
    "profile --layers experiment.toml": "the options of a measurement on a GPU's machine come with it in gpu.md",
    "export SWEEP -f executorch": "needs executorch; tests/search/exporters/test_executorch.py exports one",
    "measure SWEEP --pick suggested --runtime executorch": "as with openvino",
    "probe executorch": "needs executorch; tests/search/exporters/test_probing.py asks it",
    "profile --runtime executorch": "names an option: it needs an experiment",
    "agent save SWEEP": "needs a sweep by haq; tests/search/cli/test_agent.py saves one",
    "sweep examples/digits.toml run.backend=ray": "starts a cluster; tests/search/sweeps/ray/test_backend.py sweeps on one",
    "sweep examples/digits.toml search.trials=40 evaluate.ladder": "the brackets of its list are taken for optional ones",
}
"""The beginning of a command -> why it is not run here."""
ELSEWHERE = {
    ("README.md", 1): "tests/search/cli/test_readme.py",
    ("export.md", 1): "tests/search/exporters/test_flow.py",
    ("export-executorch.md", 0): "tests/search/exporters/test_executorch.py",
    ("export-litert.md", 0): "tests/search/exporters/test_litert.py",
    ("own-task.md", 1): "tests/docs/test_own_task.py",
    ("own-task.md", 2): "tests/docs/test_own_task.py",
    ("export-language.md", 0): "tests/search/exporters/test_compressed.py",
    ("export-language.md", 1): "tests/search/exporters/test_torchao.py",
}
"""Page and number of a Python block -> the test that runs it, or what it stands for."""
SLOW = (
    *(
        "compress",
        "profile",
        "measure",
        "probe",
        "devices validate",
        "export SWEEP -f openvino",
        "export SWEEP -f litert",
    ),
    *(
        "evaluate --task digits --policy weight=int4:channel:mse",
        "sweep FILE.toml",
        "sweep EXPERIMENT key",
        "sweep examples/digits.toml search",
    ),
    *("export SWEEP --device", "export SWEEP --max-drop", "export SWEEP --pick POLICY", "export NAME -f onnx", "resume NAME"),
)
"""The beginning of a command that takes minutes or a runtime, or does what another one of the pages does."""
SMALL = ("search.trials=3", "search.searcher=random", "evaluate.calib=64", "evaluate.valid=50", "evaluate.test=50")
WORDS = {
    **dict.fromkeys(("SWEEP", "NAME"), "recorded"),
    **dict.fromkeys(("EXPERIMENT", "EXPERIMENT.toml", "FILE.toml", "F.toml", "FILE", "experiment.toml"), "small.toml"),
    **dict.fromkeys(("POLICY.json",), "policy.json"),
    **dict.fromkeys(("MODULE:NETWORK", "my_module:net"), "my_module:net"),
    **{
        "FILE.csv": "F.csv",
        "MODEL": "digits",
        "TARGET": "c-array",
        "FAMILY": "formats",
        "RUNTIME": "onnxruntime",
        "my-laptop.toml": "small-device.toml",
    },
    **{"cuda": "cpu", "A": "recorded", "B": "other", "examples/digits.toml": str(ROOT / "examples/digits.toml")},
}
AGAIN = {"epochs=5": "epochs=1", "trials=60": "trials=4", '"run.pt"': '"own-run.pt"', '"out"': '"exported"'}
"""What is changed in Python blocks, so that they take seconds."""
NETWORK = "from torch import nn\n\nnet = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()\n"
Call = Callable[..., str]


def cases() -> Iterator[Any]:
    """Yield every command line that is run, once, with the page where it stands first."""
    seen: list[str] = []
    for page in PAGES:
        for words in commands(page):
            text = " ".join(words)
            if text not in seen and not text.startswith(tuple(NOT_RUN)):
                seen.append(text)
                yield pytest.param(words, len(seen), id=f"{page.name}: {text}", marks=[pytest.mark.slow] if text.startswith(SLOW) else [])


def blocks() -> Iterator[Any]:
    """Yield every Python block that is run here."""
    for page in PAGES:
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.S | re.M)):
            if (page.name, number) not in ELSEWHERE:
                yield pytest.param(page.name, block, id=f"{page.name}-{number}")


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Return what runs the command line in this process, in a folder that is kept, and returns what it prints; it may not fail."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for name, value in {
            "HOME": folder,
            "BITFRONT_CACHE": folder / "cache",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }.items():
            patch.setenv(name, str(value))

        def run(*words: str, code: int = 0) -> str:
            out, err = io.StringIO(), io.StringIO()
            with pytest.MonkeyPatch.context() as once, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                once.setattr(sys, "argv", ["bitfront", *words])
                once.setattr(sys, "path", list(sys.path))
                with pytest.raises(SystemExit) as ended:
                    main()
            assert (ended.value.code or 0) == code, f"{words}: {err.getvalue()[-3000:]}"
            return out.getvalue()

        yield run


@pytest.fixture(scope="module")
def recorded(call: Call) -> Call:
    """Return the command line in a folder with the default sweep, a second one, and files of every kind that the pages name."""
    call("sweep", "digits", "name=recorded", "--log", "plain")
    call("sweep", "digits", "name=other", *SMALL)
    Path("my_module.py").write_text(NETWORK)
    Path("my_task.py").write_text(re.findall(r"this block -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)[0])
    text = (ROOT / "examples/digits.toml").read_text()
    Path("small.toml").write_text(re.sub(r"trials = 80", "trials = 3", text).replace('searcher = "auto"', 'searcher = "random"'))
    for name, copy in (("generic-cpu.toml", "small-device.toml"), ("haq_vu9p_mobilenetv2.csv", "F.csv")):
        shutil.copy(ROOT / "hw_models/devices" / name, copy)
    call("solve", "recorded", "--budget", "weight_bytes=0.1 of float", "--out", "policy.json")
    WORDS["POLICY"] = next(row["id"] for row in json.loads(call("front", "recorded", "--json")) if row["suggested"])
    return call


def filled(words: list[str], number: int) -> list[str]:
    """Return a command with what its words in capitals stand for, and cut where it sweeps."""
    verb, words = words[0], [word for word in words if word not in ("...", "key=value")]
    if verb == "compare":
        words = ["compare", "recorded", "other"]
    if verb == "init":
        words = [*(word if word != "FILE.toml" else "new.toml" for word in words), "--force"]
    if verb == "cost":
        words = [word if word != "NAME" else "t4" for word in words]
    if verb == "devices":
        words = [{"NAME": "vu9p-lut", "FILE.toml": "small-device.toml"}.get(word, word) for word in words] + (
            ["t4"] if words[-1] == "show" else []
        )
    if verb == "compress":
        words = [word for word in words if word not in ("--data", "FOLDER", "--option")]
        words = [re.sub(r"^(10|1|0\.15)$", "0.05", word) if words[n - 1] == "--minutes" else word for n, word in enumerate(words)]
        words += [] if "--minutes" in words else ["--minutes", "0.05"]
    if verb == "profile" and "--runtime" in words:
        words += ["--repeats", "3"]
    if "--reconstruct" in words:
        words = [{"200": "4"}.get(word, word) for word in words] + ["--calib", "64"]
    words = [WORDS.get(word, word) for word in words]
    words = [f"out-{number}" if word in ("DIR", "out") else word for word in words]
    if verb in ("export", "compress") and "--out" not in words:
        words += ["--out", f"out-{number}"]
    if verb == "sweep":
        named = any(word.startswith("name=") for word in words)
        words += [*([] if named else [f"name=sweep-{number}"]), *SMALL[: 2 if "my_task:make" in str(words) else None]]
    return words


@pytest.mark.parametrize(("words", "number"), list(cases()))
def test_a_command_of_a_page_runs(recorded: Call, words: list[str], number: int) -> None:
    recorded(*filled(words, number))


def given(page: str, recorded: Call) -> dict[str, Any]:
    """Return the names that the text around a page's blocks gives."""
    task = load("digits", {})
    policy = Policy.from_json(json.loads(Path("policy.json").read_text()))
    if page == "export.md":
        recorded("export", "recorded", "-f", "safetensors", "--out", "exported")
        return {"network": task.model, "example": next(iter(task.calib))[0]}
    if page == "searchers-details.md":
        sensitivities = (np.array([0.5, 0.1, 0.0]),) * 2
        sizes = tuple(np.array([1e4, 5e4, 9e4]) for _ in range(2))
        problem = Problem(
            (3, 3), ("error", "weight_bytes"), ((0,), (1,)), {"weight_bytes": sizes}, {}, {"weight_bytes": 0.0}, frozenset(), ()
        )
        return {"problem": problem, "losses": sensitivities}
    return {"task": task, "batches": task.train, "policy": policy, "worst_group": lambda outputs, _targets: float(outputs.mean())}


@pytest.mark.filterwarnings("ignore:no policy is within")  # processors find other policies
@pytest.mark.parametrize(("page", "block"), list(blocks()))
def test_a_python_block_of_a_page_runs(recorded: Call, page: str, block: str) -> None:
    for old, new in AGAIN.items():
        block = block.replace(old, new)
    names = given(page, recorded)
    exec(compile(block, page, "exec"), names)
    promised = {
        "README.md": lambda: len(names["sweep"].front()) > 0 and isinstance(names["model"], nn.Module),
        "export.md": lambda: names["model"](names["example"]).shape == names["network"](names["example"]).shape,
        "qat.md": lambda: len(names["history"]) > 0 and bool(names["data"]),
        "quantization.md": lambda: (names["y"].shape, names["y"].dtype) == (names["x"].shape, names["x"].dtype),
        "searchers-details.md": lambda: tuple(names["values"]) == (1, 1),
        "own-task.md": lambda: len(names["metrics"]) == 3,
        "data-free.md": lambda: sum(map(len, names["calibration"])) == 64 and isinstance(names["quantized"], nn.Module),
    }
    assert promised[page]()


LOSS = 0.0504639707505703
"""Of the float network of digits where the README's front was found: its weights are the same on every processor, sums are not."""


def cells(row: dict[str, Any], test: float) -> str:
    """Return a row of the README's table but for its first cell, from a row of `front --json` and the accuracy on the test split."""
    figures = row["figures"]
    size, valid = f"{figures['weight_bytes'] / 1024:.1f} KiB", f"{100 * figures['accuracy']:.2f} %"
    return f"{size} | {figures['bits_weight_avg']:.2f} | {valid} | {100 * test:.2f} % | {1000 * figures['latency_s']:.2f} ms"


def test_the_figures_of_the_readme_are_those_of_the_default_sweep(recorded: Call) -> None:
    text = (ROOT / "README.md").read_text().replace("**", "")
    rows = json.loads(recorded("front", "recorded", "--all", "--json"))
    floats, members = rows[0]["float"], [row for row in rows if row["front"]]
    assert f"tries {len(rows)} policies." in text
    assert (
        f"{floats['weight_bytes'] / 1024:.1f} KiB | 32 | {100 * floats['accuracy_valid']:.2f} % | {100 * floats['accuracy_test']:.2f} %"
        in text
    )
    assert floats["loss_valid"] == pytest.approx(LOSS, rel=1e-5)
    for bits in (3, 4):
        wanted = {"weight": f"int{bits}:channel:mse", "activation": "int4:tensor:mse"}
        (row,) = (row for row in rows if row["origin"] == "baseline" and all(layer == wanted for layer in row["policy"]["layers"].values()))
        Path("uniform.json").write_text(json.dumps(row["policy"]))
        judged = json.loads(recorded("apply", "uniform.json", "--task", "digits", "--json"))
        assert f"| uniform: int{bits} weights, int4 activations | {cells(row, judged['accuracy_test'])} |" in text
    if floats["loss_valid"] != LOSS:
        pytest.skip("the README's front was found with other kernels; sums in another order lead the search elsewhere")
    assert f"{len(members)} are on its front" in text
    for row in members:
        if f"| `{row['id']}` | " in text:
            assert f"| `{row['id']}` | {cells(row, row['test']['accuracy'])} |" in text
    assert f"| `{next(row['id'] for row in members if row['suggested'])}` | " in text


def test_few_commands_are_left_out_and_the_lists_are_of_today() -> None:
    texts = [" ".join(words) for page in PAGES for words in commands(page)]
    assert [start for start in (*NOT_RUN, *SLOW) if not any(text.startswith(start) for text in texts)] == []
    assert len(list(cases())) > 3 * len(NOT_RUN)
    for (page, number), test in ELSEWHERE.items():
        assert (ROOT / test).is_file()
        assert len(re.findall(r"^```python$", (ROOT if page == "README.md" else DOCS).joinpath(page).read_text(), flags=re.M)) > number
