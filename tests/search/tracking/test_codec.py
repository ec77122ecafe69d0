"""Records as JSON and as tags: exact, compact, and loud where damaged."""

import base64
import contextlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import BitfrontError
from search.records.record import SweepRecord
from search.tasks.metrics.info import MetricInfo
from search.tracking.codec import (
    CHUNK,
    dumps,
    from_tags,
    layer_names,
    sweep_from_json,
    sweep_to_json,
    to_tags,
    trial_from_json,
    trial_to_json,
)

MakeSweep = Callable[..., SweepRecord]


def test_trials_read_back_exactly(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30)
    layers = list(sweep.trials[0].policy)
    for trial in sweep.trials:
        kept = replace(trial, repeated=3, test={"accuracy": 0.1 + 0.2})
        assert trial_from_json(json.loads(dumps(trial_to_json(kept, layers))), layers) == kept


def test_a_policy_for_other_layers_carries_its_names(make_sweep: MakeSweep) -> None:
    trial = make_sweep(trials=1).trials[0]
    other = replace(trial, policy=Policy({"head": LayerPolicy(parse("mxfp4"), parse("int4:token:dynamic"))}))
    data = trial_to_json(other, list(trial.policy))
    assert data["layers"] == ["head"]
    assert trial_from_json(data, list(trial.policy)) == other


def test_the_transform_of_the_network_survives_and_is_left_out_where_there_is_none(make_sweep: MakeSweep) -> None:
    trial = make_sweep(trials=1).trials[0]
    rotated = replace(trial, policy=Policy(trial.policy, "rotate"))
    names = list(trial.policy)
    assert trial_from_json(trial_to_json(rotated, names), names) == rotated
    assert "transform" not in trial_to_json(trial, names)


def test_the_kv_cache_survives_and_is_left_out_where_it_is_float(make_sweep: MakeSweep) -> None:
    trial = make_sweep(trials=1).trials[0]
    cached = replace(trial, policy=Policy(trial.policy, kv=parse("int4:group64")))
    names = list(trial.policy)
    assert trial_from_json(trial_to_json(cached, names), names) == cached
    assert "kv" not in trial_to_json(trial, names)


def test_not_a_number_survives(make_sweep: MakeSweep) -> None:
    trial = make_sweep(trials=1).trials[0]
    broken = replace(trial, result=replace(trial.result, metrics={"error": math.nan, "loss": math.inf}))
    back = trial_from_json(json.loads(dumps(trial_to_json(broken, []))), []).result.metrics
    assert math.isnan(back["error"])
    assert back["loss"] == math.inf


def test_headers_read_back_exactly(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(objectives=("error", "weight_bytes", "latency_s"), limits={"latency_s": 1 / 3})
    assert sweep_from_json(json.loads(dumps(sweep_to_json(sweep)))) == replace(sweep, trials=())


def test_the_metrics_of_a_task_read_back(make_sweep: MakeSweep) -> None:
    infos = (MetricInfo("psnr", True, "dB", None), MetricInfo("mae", False, "", 0.0, 0.5))
    sweep = replace(make_sweep(), metrics=infos, quality_limits={"mae": 1 / 3}, trials=())
    data = json.loads(dumps(sweep_to_json(sweep)))
    assert sweep_from_json(data) == sweep
    assert "metrics" not in sweep_to_json(make_sweep())  # as sweeps without metrics were always recorded
    data["metrics"][0]["name"] = "psnr\x1b[31m"
    assert sweep_from_json(data).metrics[0].name == r"psnr\x1b[31m"
    for damaged in ("x", [3], [{"name": "mae"}], [data["metrics"][0] | {"best": "high"}]):
        with pytest.raises(BitfrontError, match="the record of a sweep is damaged"):
            sweep_from_json(data | {"metrics": damaged})


@given(st.one_of(st.text(max_size=50), st.lists(st.integers(), max_size=5), st.dictionaries(st.text(), st.floats(allow_nan=False))))
def test_any_json_survives_tags(value: object) -> None:
    assert from_tags(to_tags("key", value), "key") == value


def test_long_records_are_cut_to_what_a_tag_holds() -> None:
    value = [(i * 2654435761) % 2**32 for i in range(20_000)]
    tags = to_tags("key", value)
    assert len(tags) > 2
    assert max(map(len, tags.values())) <= CHUNK + 10 < 8000
    assert all(text.isascii() for text in tags.values())
    assert from_tags(tags, "key") == value
    assert from_tags(to_tags("key", "short") | {"key.1": "left over from a longer one"}, "key") == "short"


def test_a_lost_part_is_an_error_and_an_absent_key_is_none() -> None:
    tags = to_tags("key", [(i * 2654435761) % 2**32 for i in range(20_000)])
    assert from_tags(tags, "other") is None
    del tags["key.1"]
    with pytest.raises(BitfrontError, match=r"tag 'key' is damaged .*restore it from a backup"):
        from_tags(tags, "key")


def test_what_inflates_without_limit_is_refused() -> None:
    bomb = base64.b64encode(zlib.compress(b"[" + b"0," * 2**25 + b"0]", 9)).decode()
    parts = [bomb[i : i + CHUNK] for i in range(0, len(bomb), CHUNK)]
    tags = {f"x.{i}" if i else "x": part if i else f"{len(parts)}z:{part}" for i, part in enumerate(parts)}
    with pytest.raises(BitfrontError, match="it inflates to more than"):
        from_tags(tags, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("number", "origin", "values", "specs", "codes", "result", "asked", "told", "repeated", "test", "after", "layers")
SOUND = {
    "number": 0, "origin": "random", "values": [0], "specs": ["int4:channel:mse"], "codes": [[0, 0]], "asked": 0, "told": 1, "repeated": -1,
    "result": {"policy_id": "a", "metrics": {}, "cost": {}, "seconds": 0.1, "status": "ok", "reason": ""}, "test": {},
}  # fmt: skip


@given(st.sampled_from(KEYS), JSON)
def test_a_trial_of_any_data_is_read_or_refused(key: str, value: object) -> None:
    with contextlib.suppress(BitfrontError):
        trial_from_json({**SOUND, key: value}, ("layer",))


@given(st.text(max_size=60))
def test_a_tag_of_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BitfrontError):
        from_tags({"x": text}, "x")


@given(JSON)
def test_a_header_of_any_data_is_read_or_refused(data: object) -> None:
    for read in (sweep_from_json, layer_names):
        with contextlib.suppress(BitfrontError):
            read(data)


def test_deep_json_is_refused() -> None:
    with pytest.raises(BitfrontError, match=r"damaged \(RecursionError"):
        from_tags({"x": "1j:" + "[" * 100_000}, "x")
