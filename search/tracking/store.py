"""`Store`: writes lines of the spool to MLflow. Every line may be written again; nothing is then changed or doubled."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from search.records.palette import BASELINES
from search.records.summary import readable
from search.tracking import names
from search.tracking.client import Dataset, DatasetInput, InputTag, Metric, MlflowClient, Param, RunTag, get_artifact_repository
from search.tracking.codec import Json, from_tags, layer_names, to_tags, trial_from_json
from search.tracking.outage import identity, require_same
from search.tracking.spool import stays_inside
from search.tracking.view import SWEEPS_TAG, TAG, state, sweeps_state

PARAM = 250  # characters; the whole policy is in `policy/policy.json` and in the record
CHARTED = ("accuracy", "error", "weight_bytes", "latency_s", "energy_j")
"""Figures of a trial that its run also has in units that people read: MLflow's charts show a metric as it is."""
STATUSES = {"running": "RUNNING", "finished": "FINISHED", "stopped": "SCHEDULED", "failed": "FAILED"}
"""MLflow shows KILLED like FAILED, and SCHEDULED by a clock: a stopped sweep can go on."""

TRIAL_STATUSES = {"ok": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a sweep's runs are, and how they are told from others': experiment, name, parent run, colour in MLflow's charts."""

    experiment_id: str
    sweep: str
    run_id: str
    color: str


class Store:
    """One sweep's runs in MLflow.

    Args:
        client: open on the store.
        who: whose runs.
        children: trial number -> run id, of the trials that MLflow has.
        shown: numbers of the trials that their own runs call front members, and those that are called knees.
        layers: names of the layers; empty before the first trial, whose record brings them.
        uniform: numbers of the trials that are uniform policies within the limits.
    """

    def __init__(
        self,
        client: MlflowClient,
        who: Identity,
        children: Mapping[int, str],
        shown: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset()),
        layers: Sequence[str] = (),
        uniform: frozenset[int] = frozenset(),
    ) -> None:
        self._uniform = set(uniform)
        self._client, self._who, self._layers = client, who, tuple(layers)
        self._children = dict(children)
        self._front, self._knees = shown
        self.mended = 0  # trials whose tags were not those of the front
        self._begun: set[int] = set()
        self.uri = str(client.tracking_uri)
        self._file = identity(self.uri)
        self.written = 0  # lines of this attempt; a batch may take minutes where the store is slow

    def apply(self, lines: Sequence[Json], files: Path) -> None:
        """Write lines in order; the last front in them is the one that is tagged, the last content of an artifact the one that is sent."""
        require_same(self.uri, self._file)
        self.written = 0
        fronts = [line for line in lines if line["op"] == "front"]
        shown: Json = fronts[-1] if fronts else {"front": self._front, "knee": max(self._knees, default=-1)}
        last_use = {line["name"]: i for i, line in enumerate(lines) if line["op"] == "artifact"}
        ended: set[int] = set()
        for i, line in enumerate(lines):
            if line["op"] == "trial":
                number: int = line["trial"]["number"]
                self._trial(line, shown)
                ended.add(number)
            elif line["op"] == "artifact" and last_use[line["name"]] == i:
                self._artifact(files, line["name"])
            elif line["op"] == "front" and line is fronts[-1]:
                self._json(self._who.run_id, "front.json", line["rows"])
            else:
                self._parent(line)
            self.written += 1
        if fronts:
            self._fronts(fronts, ended)
        require_same(self.uri, self._file)  # otherwise these lines went with the file

    def _parent(self, line: Json) -> None:
        """Write what concerns the sweep as a whole."""
        if line["op"] in ("tags", "params"):
            self._layers = layer_names(from_tags(line.get("tags", {}), names.LAYERS)) or self._layers
            self._batch(self._who.run_id, tags=line.get("tags"), params=line.get("params"))
        elif line["op"] == "metrics":
            self._batch(self._who.run_id, metrics=[(key, value, line["time"], line["step"]) for key, value in line["metrics"].items()])
        elif line["op"] == "dataset":
            data = Dataset(name=line["name"], digest=line["digest"], source_type="bitfront", source=json.dumps({"task": line["name"]}))
            self._client.log_inputs(self._who.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", line["context"])])])
        elif line["op"] == "view":
            self._client.set_experiment_tag(self._who.experiment_id, TAG, state(line["costs"]))
            self._client.set_experiment_tag(self._who.experiment_id, SWEEPS_TAG, sweeps_state())
        elif line["op"] == "check":
            self._check(line)
        elif line["op"] == "status":
            self._status(line)

    def _trial(self, line: Json, shown: Json) -> None:
        """Write one trial as a child run: create, one batch, policy, end. One that is there and now has test figures only gets these."""
        trial, result = line["trial"], line["trial"]["result"]
        number, end = trial["number"], line["time"]
        self._uniform |= {number} if line.get("uniform") else set()
        test = [(f"{name}_test", value, end, 0) for name, value in trial["test"].items()]
        tags = self._trial_tags(trial, shown) | to_tags(names.RECORD, trial)
        child = self._find(number)
        if child is not None and (test or (result["status"] == "ok" and result["reason"])):  # the reason: the test split failed
            self._batch(child, metrics=test, tags=tags)
            return
        folder = ""
        if child is None:
            tags |= {"mlflow.runName": f"{self._who.sweep}/{number:04d}{' uniform' if number in self._uniform else ''}"}
            start = max(0, end - int(1000 * result["seconds"]))
            self._begun.add(number)
            made = self._client.create_run(self._who.experiment_id, start_time=start, tags=tags).info
            child, folder = made.run_id, made.artifact_uri
            self._children[number] = child
            tags = {}
        judged = result["metrics"] | result["cost"]
        charted = readable({name: judged.get(name) for name in CHARTED})
        figures = judged | charted | {"seconds": result["seconds"], "hypervolume": line["hypervolume"]}
        metrics = [(key, value, end, 0) for key, value in figures.items()] + test
        for step, epoch in enumerate(result.get("epochs", ()), start=1):
            metrics += [(f"epoch_{key}", value, end, step) for key, value in epoch.items() if key != "epoch"]
        params = {"sweep": self._who.sweep, "searcher": trial["origin"], "fidelity": result["fidelity"], **policy_params(trial)}
        for i in range(0, len(metrics), 500):
            self._batch(child, metrics=metrics[i : i + 500], params=params, tags=tags)
        self._json(child, "policy/policy.json", trial_from_json(trial, self._layers).policy.to_json(), folder)
        self._client.set_terminated(child, TRIAL_STATUSES[result["status"]], end_time=end)

    def _trial_tags(self, trial: Json, shown: Json) -> dict[str, str]:
        result, uniform = trial["result"], trial["number"] in self._uniform
        tags = {
            names.KIND: "trial",
            names.SWEEP: self._who.sweep,
            names.TRIAL: str(trial["number"]),
            names.UID: names.trial_uid(self._who.run_id, trial["number"]),
            names.PARENT: self._who.run_id,
            names.PARETO: _text(trial["number"] in shown["front"]),
            names.KNEE: _text(trial["number"] == shown["knee"]),
            names.STATUS: result["status"],
            names.SEARCHER: trial["origin"],
            names.POLICY: result["policy_id"],
            names.COLOR: BASELINES if uniform else self._who.color,
            names.CHARTED: _text(uniform or trial["number"] in shown["front"]),
        }
        tags |= {names.UNIFORM: "true"} if uniform else {}
        tags |= {names.EXAMPLES: str(result["examples"])} if result.get("examples") else {}
        return tags | ({names.REASON: names.redact(result["reason"])[:500]} if result["reason"] else {})

    def _find(self, number: int) -> str | None:
        """Return the run of a trial; a creation whose answer was lost may have succeeded, so it is looked up."""
        if number not in self._children and number in self._begun:
            query = f"tags.`{names.UID}` = '{names.trial_uid(self._who.run_id, number)}'"
            for run in self._client.search_runs([self._who.experiment_id], query, max_results=1):
                self._children[number] = run.info.run_id
        return self._children.get(number)

    def _fronts(self, fronts: Sequence[Json], ended: set[int]) -> None:
        """Write the hypervolume curve, and the tags of trials that joined or left the front; `ended` were just written with theirs."""
        last = fronts[-1]
        self._tag(frozenset(last["front"]), last["knee"], ended)
        curve = []
        for line in fronts:
            step, time = line["step"], line["time"]
            curve += [("hypervolume", line["hypervolume"], time, step), ("front_size", float(len(line["front"])), time, step)]
            curve += [(str(key), value, time, step) for key, value in line.get("headline", {}).items() if isinstance(value, float)]
            if line["trial"] in self._children:  # its own run has the figure from before it moved the front
                self._batch(self._children[line["trial"]], metrics=[("hypervolume", line["hypervolume"], time, 0)])
        for i in range(0, len(curve), 500):
            self._batch(self._who.run_id, metrics=curve[i : i + 500], tags=_front_tags(last["front"], last["knee"]))

    def _check(self, line: Json) -> None:
        """Compare the front's tags with what the trials' runs say now, and set right those that a dead writer left behind."""
        self._front, self._knees = self._tagged(names.PARETO), self._tagged(names.KNEE)
        self.mended += self._tag(frozenset(line["front"]), line["knee"], set())
        self._batch(self._who.run_id, tags=_front_tags(line["front"], line["knee"]))

    def _tagged(self, key: str) -> frozenset[int]:
        """Return the numbers of the trials whose tag `key` is true."""
        query, token, numbers = f"tags.`{names.PARENT}` = '{self._who.run_id}' and tags.`{key}` = 'true'", None, set()
        while True:
            page = self._client.search_runs([self._who.experiment_id], query, max_results=1000, page_token=token)
            for run in page:
                number = int(run.data.tags[names.TRIAL])
                self._children[number] = run.info.run_id
                numbers.add(number)
            token = page.token
            if not token:
                return frozenset(numbers)

    def _tag(self, front: frozenset[int], knee: int, ended: set[int]) -> int:
        """Tag the trials that joined or left the front, but those that `ended` just now with their tags; return how many."""
        knees = frozenset({knee} if knee >= 0 else ())
        changed = sorted(number for number in ((self._front ^ front) | (self._knees ^ knees)) - ended if number in self._children)
        for number in changed:
            charted = _text(number in front or number in self._uniform)
            tags = {names.PARETO: _text(number in front), names.KNEE: _text(number == knee), names.CHARTED: charted}
            self._batch(self._children[number], tags=tags)
        self._front, self._knees = front, knees
        return len(changed)

    def _json(self, run_id: str, name: str, value: object, root: str = "") -> None:
        """Write a value as an artifact of JSON; with `root`, where the run's artifacts lie, MLflow need not be asked for it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_text(json.dumps(value, indent=1), encoding="utf-8")
            parent = str(Path(name).parent) if "/" in name else None
            if root:
                repository: Any = get_artifact_repository(root, self._client.tracking_uri)  # not annotated
                repository.log_artifact(str(path), parent)
            else:
                self._client.log_artifact(run_id, str(path), parent)

    def _artifact(self, files: Path, name: str) -> None:
        path = files / name
        if stays_inside(files, name) and path.is_file() and not path.is_symlink():  # otherwise a replay: it was sent and removed
            self._client.log_artifact(self._who.run_id, str(path), str(Path(name).parent) if "/" in name else None)

    def _status(self, line: Json) -> None:
        status = line["status"]
        self._batch(self._who.run_id, tags={names.STATUS: status})
        if status == "running":
            self._client.update_run(self._who.run_id, "RUNNING")
        else:
            begun = self._client.get_run(self._who.run_id).info.start_time  # another process's clock may have been ahead of this one's
            self._client.set_terminated(self._who.run_id, STATUSES[status], end_time=max(line["time"], begun))

    def _batch(
        self,
        run_id: str,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """One request: metrics as (name, value, time in ms, step). Figures that are not finite stay out of MLflow's charts."""
        self._client.log_batch(
            run_id,
            metrics=[Metric(*metric) for metric in metrics if math.isfinite(metric[1])],
            params=[Param(key, value) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )


def _front_tags(front: Sequence[int], knee: int) -> dict[str, str]:
    return to_tags(names.FRONT, {"front": sorted(front), "knee": knee})


def _text(flag: bool) -> str:
    return "true" if flag else "false"


def policy_params(trial: Json) -> dict[str, str]:
    """Return the text forms of a policy, `weight` and `activation`, layer by layer with repeats counted; cut where they are long."""
    params = {}
    for slot, name in enumerate(("weight", "activation")):
        runs = [(trial["specs"][code], len(list(same))) for code, same in groupby(codes[slot] for codes in trial["codes"])]
        text = " ".join(spec if count == 1 else f"{count}x{spec}" for spec, count in runs)
        params[name] = text if len(text) <= PARAM else text[: PARAM - 3] + "..."
    return params
