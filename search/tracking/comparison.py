"""Logging a comparison of sweeps as a run of its own."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from search.tracking import names
from search.tracking.client import Metric, RunTag, connect, reported
from search.tracking.reading import find_sweep
from search.tracking.spool import FOLDER


def log_comparison(uri: str, sweep_run_ids: Mapping[str, str], figures: Mapping[str, float], files: Mapping[str, str], note: str) -> str:
    """Log one comparison run beside the first sweep and return its run id.

    Args:
        uri: MLflow tracking uri.
        sweep_run_ids: name of each sweep here -> its run id.
        figures: metrics of the comparison.
        files: name -> text of each artifact.
        note: description in Markdown.

    Raises:
        BitfrontError: the store cannot be reached.
    """
    first = find_sweep(uri, next(iter(sweep_run_ids.values())))
    client = connect(uri, FOLDER)
    title = f"compare {' '.join(sweep_run_ids)}"[:250]
    tags = {
        names.KIND: "comparison",
        names.NOTE: note[:7500],
        "mlflow.runName": title,
        "bitfront.compared": json.dumps(dict(sweep_run_ids))[:7000],
    }
    with reported(uri), tempfile.TemporaryDirectory() as folder:
        run = client.create_run(first.experiment_id, tags=tags)
        run_id = str(run.info.run_id)
        metrics = [Metric(key, value, run.info.start_time, 0) for key, value in figures.items()]
        client.log_batch(run_id, metrics=metrics, tags=[RunTag(names.STATUS, "finished")])
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
            client.log_artifact(run_id, str(Path(folder) / name))
        client.set_terminated(run_id)
    return run_id
