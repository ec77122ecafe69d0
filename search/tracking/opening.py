"""Beginning the record of a sweep, and taking it up again. Imports mlflow: load it late."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from search.records.palette import PALETTE
from search.records.record import SweepRecord
from search.records.summary import headline
from search.tracking import names
from search.tracking.client import MlflowClient, connect, experiment_id, reported
from search.tracking.codec import from_tags, layer_names, sweep_to_json, to_tags
from search.tracking.reading import OF_RECORDS, Row, family, find_sweep, journal_of, merged, sweeps
from search.tracking.spool import FOLDER, Spool
from search.tracking.store import Identity, Store
from search.tracking.tracker import Tracker
from search.tracking.writer import Writer


def start(uri: str, experiment_name: str, sweep: SweepRecord, params: Mapping[str, object], spool: Path = FOLDER) -> Tracker:
    """Create a sweep's parent run and begin its record.

    Args:
        uri: MLflow tracking uri; tables and experiment are created where they are new.
        experiment_name: one MLflow experiment holds many sweeps.
        sweep: the header; its `run_id` and `trials` are not read. Credentials in the experiment's text are blanked out.
        params: shown on the parent run: searcher, device, task, seed, ...
        spool: folder of the local journal.

    Raises:
        BitfrontError: the store cannot be reached or the spool not be written.
    """
    client = connect(uri, spool)
    where = experiment_id(client, experiment_name, uri)
    header = replace(sweep, experiment=names.redact(sweep.experiment), trials=(), status="running")
    tags = {names.KIND: "sweep", names.SWEEP: sweep.name, names.STATUS: "running", "mlflow.runName": sweep.name}
    color = PALETTE[len(sweeps(uri, experiment_name)) % len(PALETTE)]
    tags |= {names.SPOOL: str(spool.resolve()), names.COLOR: color}
    tags |= {names.SEARCHER: str(params["searcher"])} if "searcher" in params else {}
    with reported(uri):
        run_id = client.create_run(where, tags=tags | to_tags(names.RECORD, sweep_to_json(header))).info.run_id
    journal, store = Spool(spool, run_id), Store(client, Identity(where, sweep.name, run_id, color), {})
    try:
        return _begun(replace(header, run_id=run_id), journal, store, experiment_name, tags, params)
    except BaseException:  # the disk of the journal is full: no run is left that says it is running
        with contextlib.suppress(Exception), reported(uri):
            client.set_tag(run_id, names.STATUS, "failed")
            client.set_terminated(run_id, "FAILED")
        raise


def _begun(
    header: SweepRecord, journal: Spool, store: Store, experiment_name: str, tags: dict[str, str], params: Mapping[str, object]
) -> Tracker:
    """Return the tracker of a new sweep whose first lines are in the journal."""
    journal.acquire()
    tracker = Tracker(header, journal, Writer(journal, store))
    try:
        tracker.begin(experiment_name, tags | to_tags(names.RECORD, sweep_to_json(header)))
        shown = {**params, **{f"fingerprint_{name}": value for name, value in header.fingerprints.items()}}
        tracker.params({key: names.redact(str(value))[:500] for key, value in shown.items()})
        if "data" in header.fingerprints:
            name, digest = str(params.get("task", header.name)), header.fingerprints["data"]
            tracker.dataset(names.redact(name), digest)
        tracker.artifact(header.experiment, "experiment.toml")
        tracker.measure(headline(header, (), None, 0))
    except BaseException:
        tracker.close(1.0, discard=True)
        raise
    return tracker


def open_sweep(uri: str, experiment_name: str | None, ref: str) -> Tracker:
    """Take up the record of a stopped or killed sweep; what the spool still holds is sent first. `tracker.sweep` has its trials.

    Raises:
        InputError: no such sweep, or another process is writing it.
        BitfrontError: the store cannot be reached.
    """
    parent = find_sweep(uri, ref, experiment_name)
    journal = journal_of(uri, parent)
    journal.acquire()
    tracker = take_up(uri, parent, journal)
    tracker.begin(parent.experiment, parent.tags)
    tracker.restart()
    return tracker


_OF_WRITERS = (*OF_RECORDS, names.TRIAL, names.PARETO, names.KNEE, names.UNIFORM)
"""The tags of trials that tell a writer what MLflow shows."""


def take_up(uri: str, parent: Row, journal: Spool) -> Tracker:
    """Return the tracker of a sweep whose journal this process holds."""
    client = connect(uri, journal.path.parent)
    return continued(client, *family(uri, parent, _OF_WRITERS), journal)


def continued(client: MlflowClient, parent: Row, children: Sequence[Row], journal: Spool) -> Tracker:
    """Return the tracker of a sweep from its runs as they are now: what they show, not what they should show, is what is changed later."""
    unsent = journal.unsent()[0]
    sweep = merged(parent, children, unsent)
    known = {int(row.tags[names.TRIAL]): row.run_id for row in children}
    who = Identity(parent.experiment_id, sweep.name, parent.run_id, parent.tags.get(names.COLOR, PALETTE[0]))
    layers = layer_names(from_tags(parent.tags, names.LAYERS))
    shown = [frozenset(int(row.tags[names.TRIAL]) for row in children if row.tags.get(key) == "true") for key in (names.PARETO, names.KNEE)]
    uniform = frozenset(int(row.tags[names.TRIAL]) for row in children if row.tags.get(names.UNIFORM) == "true")
    store = Store(client, who, known, (shown[0], shown[1]), layers, uniform)
    stamped = [line["time"] for line in unsent if isinstance(line.get("time"), int)]
    return Tracker(sweep, journal, Writer(journal, store), max(stamped, default=0))
