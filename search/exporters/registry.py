"""A quantized network in the MLflow Model Registry: its ONNX file with signature, input example and policy. Load it late: it imports
mlflow."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.runtime import Session, read_model, versions
from quant_core.export.tagging import input_names, tensor_leaves
from quant_core.network.sizes import varying_axes
from quant_core.util.errors import BitfrontError
from quant_core.util.process import environment
from search.exporters import Bundle, Exported, onnx_qdq
from search.exporters import policy as policy_json
from search.exporters.card import FILE as CARD
from search.records.summary import readable
from search.tracking import names
from search.tracking.client import MlflowClient, connect, experiment_id, reported

import mlflow  # isort: skip  # after `client`, which sets what mlflow reads when it is imported
import mlflow.onnx  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.models.model import ModelInfo  # isort: skip
from mlflow.types import ColSpec, Schema, TensorSpec  # isort: skip

EXAMPLES = 2
LONGEST = 5000
"""Characters of a description that every store takes."""
SAME = 1e-5
"""Of the largest output: threads may sum in another order."""
Arrays = dict[str, NDArray[Any]]
_FRESH = """
import os, sys, numpy, mlflow
mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])
outputs = mlflow.pyfunc.load_model(sys.argv[2]).predict(dict(numpy.load(sys.argv[3])))
numpy.save(sys.argv[4], outputs["output"])
"""


def register_policy(uri: str, bundle: Bundle, name: str, folder: Path) -> Exported:
    """Register the quantized network as the next version of model `name`; load it in a fresh process and compare outputs.

    Args:
        uri: the store that holds the sweep; its registry is used.
        bundle: what is registered.
        name: of the registered model; NAME@ALIAS also points an alias at the version.
        folder: where files may be written; `model.onnx` and `policy.json` are made there where they are missing.

    Raises:
        InputError: ONNX cannot say the policy.
        BitfrontError: the store fails, or the model that it gives back has other outputs. The version is then removed.
    """
    name, _, alias = name.partition("@")
    checks = onnx_qdq.export(bundle, folder).checks
    policy_json.export(bundle, folder)
    unfused = checks["onnxruntime_options"] != "default"
    example = _arrays(bundle.network.example)
    outputs = Session(folder / onnx_qdq.FILE, list(example), fuse=not unfused).arrays(example)
    client = connect(uri, Path(bundle.experiment.track.uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite") else Path())
    with reported(uri), _at(uri):
        version = _log(client, uri, bundle, name, folder, _signature(bundle, folder, outputs), unfused)
        address = f"models:/{name}/{version}"
        loaded = _loaded(uri, address, example, folder)
        if not np.array_equal(loaded, outputs):
            client.delete_model_version(name, version)
            raise BitfrontError(
                f"the model that MLflow gives back differs by up to {np.abs(loaded - outputs).max():.3g}; it was removed again."
            )
        if alias:
            client.set_registered_model_alias(name, alias, version)
    named = f"models:/{name}@{alias}" if alias else address
    return Exported((), {"model": named, "largest_output_difference_when_loaded": 0.0, "examples_compared": float(len(outputs))})


def _log(client: MlflowClient, uri: str, bundle: Bundle, name: str, folder: Path, signature: ModelSignature, unfused: bool) -> str:
    """Log the model to a run of its own and register it; return the version."""
    tags = {names.KIND: "export", names.POLICY: bundle.policy.id, "bitfront.exported_from": bundle.record.name}
    experiment = experiment_id(client, bundle.experiment.track.experiment, uri)
    run = client.create_run(experiment, run_name=f"{name}-{bundle.policy.id}", tags=tags)
    status = "FAILED"
    try:
        with mlflow.start_run(run_id=run.info.run_id):
            logged = mlflow.onnx.log_model(
                read_model(folder / onnx_qdq.FILE),
                name="model",
                registered_model_name=name,
                signature=signature,
                input_example={key: values[:EXAMPLES] for key, values in _arrays(bundle.network.example).items()},
                pip_requirements=[f"{key}=={value}" for key, value in versions().items()],
                onnx_execution_providers=["CPUExecutionProvider"],
                onnx_session_options={"extra_session_config": {"session.disable_quant_qdq": "1"}} if unfused else None,
                extra_files=[str(folder / policy_json.FILE)],
                metadata={"policy": bundle.policy.id, "sweep": bundle.record.name, "task": bundle.experiment.task.name},
                save_as_external_data=False,
            )
        status = "FINISHED"
    finally:
        client.set_terminated(run.info.run_id, status)
    version = str(logged.registered_model_version)
    for key, value in (("policy", bundle.policy.id), ("sweep", bundle.record.name)):
        client.set_model_version_tag(name, version, key, value)
    _describe(client, bundle, folder, run.info.run_id, logged, name)
    return version


def _describe(client: MlflowClient, bundle: Bundle, folder: Path, run_id: str, logged: ModelInfo, name: str) -> None:
    """Give a version the figures of the policy as metrics, in units that people read, and the card as its description."""
    judged = {f"{info.name}_{split}": bundle.metrics[split][info.name] for info in bundle.record.infos for split in ("valid", "test")}
    for key, value in readable({**judged, **bundle.trial.result.cost}, "", bundle.record.infos).items():
        client.log_metric(run_id, key, value, model_id=logged.model_id)
    card = folder / CARD
    if card.is_file():
        client.update_model_version(name, str(logged.registered_model_version), card.read_text(encoding="utf-8")[:LONGEST])


def _signature(bundle: Bundle, folder: Path, outputs: NDArray[Any]) -> ModelSignature:
    """Return the types and shapes of inputs and output; the first axis, and others that differ between batches, are of any size."""
    network = bundle.network
    free = {*varying_axes(network.example, network.others), *((number, 0) for number in range(len(_arrays(network.example))))}
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(values.dtype, tuple(-1 if (number, axis) in free else size for axis, size in enumerate(values.shape)), name)
        for number, (name, values) in enumerate(_arrays(network.example).items())
    ]
    dims = read_model(folder / onnx_qdq.FILE).graph.output[0].type.tensor_type.shape.dim
    shape = (-1, *(dim.dim_value or -1 for dim in dims[1:]))
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([TensorSpec(outputs.dtype, shape, "output")]))


def _arrays(batch: Any) -> Arrays:
    return {name: tensor.numpy() for name, tensor in zip(input_names(batch), tensor_leaves(batch), strict=True)}


def _loaded(uri: str, address: str, inputs: Arrays, folder: Path) -> NDArray[Any]:
    """Return the outputs of the registered model in a fresh process."""
    given, made = folder / ".inputs.npz", folder / ".outputs.npy"
    np.savez(given, allow_pickle=False, **inputs)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _FRESH, uri, address, str(given), str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BitfrontError(f"the registered model {address} does not load: {done.stderr.strip().splitlines()[-1]}")
        loaded: NDArray[Any] = np.load(made)
    finally:
        for path in (given, made):
            path.unlink(missing_ok=True)
    return loaded


@contextmanager
def _at(uri: str) -> Iterator[None]:
    """Point MLflow's global addresses at the store, for as long as this lasts: it keeps them in variables of the environment too."""
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        with warnings.catch_warnings(), environment({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            warnings.simplefilter("ignore")  # MLflow's about its own code
            yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
