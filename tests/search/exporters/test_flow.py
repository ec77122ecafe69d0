"""`bitfront export` and `apply` as a user runs them: formats, what they hold, bad requests that leave nothing behind."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quant_core.export.packed_file import load_packed
from quant_core.export.runtime import Session
from quant_core.util.errors import BitfrontError
from search import tracking
from search.exporters import Bundle, Exported, flow
from search.exporters.flow import export, open_bundle
from search.exporters.verify import compare

ROOT = Path(__file__).parents[3]
Call = Callable[..., "subprocess.CompletedProcess[str]"]
Sweep = Callable[..., str]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, sweep: Sweep) -> str:
    """Return a store with one small sweep, `one`."""
    weight = '["int3:channel:mse", "int4:group4:mse:adaround", "int8:channel"]'
    activation = '["int8:tensor:ema", "int6:tensor"]'
    return sweep(tmp_path_factory.mktemp("sweep"), name="one", task="own_task:make", weight=weight, activation=activation, trials=6)


@pytest.fixture
def call(uri: str, bitfront: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `bitfront COMMAND ... --uri ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        store = () if command in ("apply", "inspect") or "--uri" in arguments else ("--uri", uri)
        return bitfront(command, *arguments, *store)

    return run


def test_onnx_and_safetensors_say_what_was_searched(call: Call, uri: str, tmp_path: Path) -> None:
    done = call("export", "one", "-f", "onnx", "-f", "safetensors", "--out", "deep/er/out")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "deep/er/out"
    report = json.loads((out / "export.json").read_text())
    figures = report["formats"]["onnx"]["checks"]
    assert figures["top1_agreement"] >= 0.99
    assert figures["file_bytes"] == (out / "model.onnx").stat().st_size
    assert f"accuracy_test {100 * figures['accuracy_test']:.2f} %" in done.stdout
    packed = report["formats"]["safetensors"]["checks"]
    assert (packed["largest_output_difference"], packed["accuracy_test"]) == (0.0, report["metrics"]["test"]["accuracy"])
    promised = packed["modelled_weight_bytes"] + packed["other_bytes"]
    assert promised <= (out / "model.safetensors").stat().st_size <= 1.01 * promised + 4096
    bundle = open_bundle(uri, "one", report["id"], None)
    model = bundle.network.plain
    read = load_packed(out / "model.safetensors")
    assert set(read) == set(model.state_dict())
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())
    session = Session(out / "model.onnx", ["input"], fuse=figures["onnxruntime_options"] == "default")  # it is not without VNNI
    comparison = compare(bundle, session)
    assert comparison.accuracy == pytest.approx(figures["accuracy_test"])
    assert comparison.difference == pytest.approx(figures["largest_output_difference"], rel=1e-3)


def test_the_loader_of_the_docs_reads_every_integer_format(tmp_path: Path) -> None:
    """It stands in docs/export.md, has 30 lines, and runs in a fresh process without torch."""
    from quant_core.export.packed_file import save_packed
    from quant_core.spec.quant_spec import parse

    code = re.findall(r"```python\n(import json, re.*?)```", (ROOT / "docs/export.md").read_text(), flags=re.S)[0]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30
    specs = "int4:tensor int8:channel int3:channel:affine int4:group32 int4:group7:affine int5:group16:fp32 int4:group32:e8m0"
    specs += " int4:vector16 int6:vector16:tensor:s6 int12:channel int1:channel int2:tensor:affine:mse"
    rng = torch.Generator().manual_seed(0)
    shapes = [((6, 70), 0), ((12, 5, 3, 3), 0), ((5, 12, 2, 2), 1)]
    tensors = {
        f"w{i}.{j}": (torch.randn(shape, generator=rng), parse(spec), axis)
        for i, spec in enumerate(specs.split())
        for j, (shape, axis) in enumerate(shapes)
    }
    save_packed(tmp_path / "x.safetensors", tensors, plain={"bias": torch.arange(3.0)})
    script = f"{code}\nimport sys\nassert 'torch' not in sys.modules\nnp.savez('y.npz', **load('x.safetensors'))"
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    loaded = np.load(tmp_path / "y.npz")
    wanted = load_packed(tmp_path / "x.safetensors")
    assert set(loaded) == set(wanted)
    for name, tensor in wanted.items():
        assert np.array_equal(loaded[name], tensor.numpy()), name


def test_policies_fit_the_published_schema(call: Call, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs/policy.schema.json").read_text())
    assert call("export", "one", "--out", "out").returncode == 0
    policy = json.loads((tmp_path / "out/policy.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(policy, schema)
    for broken in (policy | {"schema": "bitfront.policy/2"}, {"schema": policy["schema"]}, policy | {"layers": {"0": {"weights": "int4"}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_a_policy_round_trips_through_apply(call: Call, tmp_path: Path) -> None:
    assert call("export", "one", "--pick", "0", "--out", "out").returncode == 0
    report = json.loads((tmp_path / "out/export.json").read_text())
    applied = json.loads(call("apply", "out/policy.json", "--task", "own_task:make", "--json").stdout)
    assert (applied["id"], applied["accuracy_test"]) == (report["id"], report["metrics"]["test"]["accuracy"])


def test_force_replaces_an_export_and_nothing_else(call: Call, tmp_path: Path) -> None:
    assert call("export", "one", "--pick", "0", "--out", "out").returncode == 0
    (tmp_path / "out/mine.txt").write_text("x")
    refused = call("export", "one", "--pick", "1", "--out", "out", "--force")
    assert refused.returncode == 2
    assert "out holds files that no export wrote: mine.txt" in refused.stderr
    (tmp_path / "out/mine.txt").unlink()
    assert call("export", "one", "--pick", "1", "--out", "out", "--force").returncode == 0
    assert json.loads((tmp_path / "out/export.json").read_text())["trial"] == 1


def breaks_half_way(bundle: Bundle, folder: Path) -> Exported:
    """A user's own exporter that writes something and fails."""
    (folder / "half").write_text("half")
    raise BitfrontError("the runtime gave something else")


REQUESTS: dict[str, tuple[tuple[object, ...], int, str]] = {
    "unknown id": (("--pick", "zzzzzz", "--out", "new"), 2, "'zzzzzz' names no policy of sweep 'one'.*On the front: "),
    "unknown trial": (("--pick", "99", "--out", "new"), 2, "'99' names no policy"),
    "unknown metric": (("--pick", "best-under:latncy_s=1", "--out", "new"), 2, "METRIC one of .*latency_s"),
    "limit in words": (("--pick", "best-under:weight_bytes=small", "--out", "new"), 2, "write best-under:METRIC=LIMIT"),
    "limit that nothing keeps": (
        ("--pick", "best-under:weight_bytes=1", "--out", "new"),
        2,
        "limit 1 given, but no policy keeps it: the smallest is",
    ),
    "unknown format": (("-f", "onxx", "--out", "new"), 2, "unknown export format 'onxx'.*Did you mean 'onnx'"),
    "own format that is not there": (("-f", "nowhere.module:export", "--out", "new"), 2, "cannot import 'nowhere.module'"),
    "unwritable folder": (("--out", "/proc/none/new"), 2, "cannot write /proc/none/new"),
    "existing folder": (("--out", "there"), 2, "there exists; give another folder, or --force"),
    "existing folder that is no export": (("--out", "there", "--force"), 2, "is no export of bitfront"),
    "existing file": (("--out", "there/file", "--force"), 2, "is no export of bitfront"),
    "torchao cannot hold it": (("-f", "torchao", "--out", "new"), 2, "torchao has no configuration for .*use "),
    "vllm cannot hold it": (("-f", "vllm", "--pick", "PICK3", "--out", "new"), 2, "vLLM has no kernel for weight int3.*use int4 or int8"),
    "c-array cannot hold it": (
        ("-f", "c-array", "--pick", "PICK4", "--out", "new"),
        2,
        "weight int4:group4.*symmetric, by tensor or channel",
    ),
    "gguf cannot hold it": (("-f", "gguf", "--out", "new"), 2, "GGUF holds weights alone.*use activation float"),
    "compressed-tensors cannot hold it": (
        ("-f", "compressed-tensors", "--out", "new"),
        2,
        "compressed-tensors folders hold networks of transformers",
    ),
    "matmulnbits cannot hold it": (("-f", "onnx-matmulnbits", "--out", "new"), 2, "MatMulNBits .*Use the format onnx"),
    "exporter that fails half-way": (("-f", "BREAKS", "--out", "new"), 1, "the runtime gave something else"),
    "a folder in a file": (("--out", "there/file/new"), 2, "cannot write there/file/new: .*there/file is a file"),
    "register name with a slash": (
        ("--register", "team/net", "--out", "new"),
        2,
        "register name 'team/net' given; a name without '/' and ':'",
    ),
    "blank register name": (("--register", " ", "--out", "new"), 2, "register name ' ' given"),
    "limit without a metric": (("--pick", "best-under:=3", "--out", "new"), 2, "is not of the form best-under:METRIC=LIMIT"),
    "pick in words": (("--pick", "the best", "--out", "new"), 2, "'the best' names no policy of sweep 'one'; write suggested"),
    "unknown store": (("--out", "new", "--uri", "sqlite:///none.db"), 2, "none.db does not exist"),
    "no folder given": ((), 2, "Missing option '--out'"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_bad_requests_are_one_clear_message_and_leave_nothing(call: Call, tmp_path: Path, case: str) -> None:
    arguments, code, message = REQUESTS[case]
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("mine")
    stand_in = {"BREAKS": f"{__name__}:breaks_half_way", "PICK3": "0", "PICK4": "2"}
    done = call("export", "one", *(stand_in.get(str(argument), argument) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr, flags=re.S), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["there", "there/file"]


def test_unknown_sweep(call: Call) -> None:
    done = call("export", "onne", "--out", "new")
    assert (done.returncode, "Did you mean 'one'" in done.stderr) == (2, True)


def test_an_empty_front_is_an_error(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = dataclasses.replace(tracking.read(uri, "one"), limits={"weight_bytes": 1.0})
    monkeypatch.setattr(flow.tracking, "read", lambda *_: record)
    with pytest.raises(BitfrontError, match="sweep 'one' has an empty front"):
        export(uri, "one", "knee", ["policy"], tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_failed_trial_is_no_policy_to_export(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tracking.read(uri, "one")
    first = record.trials[0]
    failed = dataclasses.replace(first, result=dataclasses.replace(first.result, status="failed", reason="out of memory"))
    monkeypatch.setattr(flow.tracking, "read", lambda *_: dataclasses.replace(record, trials=(failed, *record.trials[1:])))
    with pytest.raises(BitfrontError, match=r"trial 0 failed \(out of memory\); pick another"):
        export(uri, "one", "0", ["policy"], tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_another_accuracy_than_the_recorded_one_is_noted(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training it is the same policy, measured elsewhere."""
    record = tracking.read(uri, "one")
    first = record.trials[0]
    other = dataclasses.replace(first, result=dataclasses.replace(first.result, metrics={**first.result.metrics, "accuracy": 0.5}))
    monkeypatch.setattr(flow.tracking, "read", lambda *_: dataclasses.replace(record, trials=(other, *record.trials[1:])))
    (note,) = export(uri, "one", "0", ["policy", "card"], tmp_path / "new")["card"].notes
    assert "accuracy on valid was recorded as 0.500000, here it is" in note
    assert note in (tmp_path / "new/README.md").read_text()


def test_other_weights_than_the_sweeps_are_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tracking.read(uri, "one")
    monkeypatch.setattr(flow, "require_trust", lambda *_, **__: None)  # the changed record is not the one that was started here
    monkeypatch.setattr(flow.tracking, "read", lambda *_: dataclasses.replace(record, fingerprints={**record.fingerprints, "weights": "0"}))
    with pytest.raises(BitfrontError, match="bound to other weights"):
        export(uri, "one", "knee", ["policy"], tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the policy"),
        ('{"schema": "bitfront.policy/9", "layers": {}}', "schema 'bitfront.policy/9' given, 'bitfront.policy/1' needed"),
        ('{"schema": "bitfront.policy/1", "layers": {"0": {"weight": "int99"}}}', "policy layer '0', weight: 'int99': 99 bits given"),
        ('{"schema": "bitfront.policy/1", "layers": {"conv": {"weight": "int4:channel"}}}', "for another network"),
        ('{"schema": "bitfront.policy/1", "layers": {"0": "int4"}}', "a table with 'weight' and 'activation'"),
        ('{"schema": "bitfront.policy/1", "layers": {"0": {}, "2": {}}}', "is for another network: it lacks 4"),
        ('{"schema": "bitfront.policy/1", "layers": {"0": {"wieght": "int4:channel"}}}', "a table with 'weight' and 'activation'"),
        ('{"schema": "bitfront.policy/1", "layers": {"0": {"weight": "int4:chanel"}}}', "policy layer '0', weight: 'int4:chanel'"),
        ('{"schema": "bitfront.policy/1"}', "policy has no 'layers' table"),
        ("[]", "schema 'list' given"),
    ],
)
def test_bad_policies_are_refused(call: Call, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.json").write_text(text)
    done = call("apply", "p.json", "--task", "own_task:make")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_files_are_told_from_whole_ones(call: Call, tmp_path: Path) -> None:
    assert call("export", "one", "-f", "safetensors", "--out", "out").returncode == 0
    path = tmp_path / "out/model.safetensors"
    assert call("inspect", path).returncode == 0
    whole = path.read_bytes()
    damages = {
        "is no safetensors file": whole[: len(whole) // 2],
        "is no packed tensor": whole.replace(b":group4", b":gruop4").replace(b":channel", b":chanmel"),
    }
    for message, damaged in damages.items():
        assert damaged != whole
        path.write_bytes(damaged)
        done = call("inspect", path)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
