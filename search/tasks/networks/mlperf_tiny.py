"""The four reference networks of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597), from the user's copy of their weights."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from search.tasks.networks.keras import KerasGraph, Node


@dataclass(frozen=True)
class Reference:
    """One reference network: its files' stem, the shape of one input, and how many numbers its weight file holds."""

    stem: str
    shape: tuple[int, ...]
    numbers: int


REFERENCES: Mapping[str, Reference] = {
    "resnet8": Reference("pretrainedResnet", (3, 32, 32), 78_666),
    "mobilenet": Reference("vww_96", (3, 96, 96), 221_794),
    "autoencoder": Reference("ad01", (640,), 269_992),
    "dscnn": Reference("kws_ref_model_float32", (1, 49, 10), 24_908),
}


def reference(name: str) -> Reference:
    """Return a reference network by name.

    Raises:
        InputError: unknown name.
    """
    if name not in REFERENCES:
        raise unknown("MLPerf Tiny network", name, REFERENCES)
    return REFERENCES[name]


def files(name: str) -> tuple[str, ...]:
    """Return the files that a reference network is read from; the DS-CNN has no graph file, its graph is written in this module."""
    stem = reference(name).stem
    return (f"{stem}.npz",) if name == "dscnn" else (f"{stem}.npz", f"{stem}.json")


def mlperf_tiny(name: str, folder: Path) -> nn.Module:
    """Return a reference network with its trained weights, in eval mode; classifiers give logits, the autoencoder its reconstruction.

    Args:
        name: resnet8 (CIFAR-10, pixels 0..255), mobilenet (visual wake words, 96x96, pixels / 255), dscnn (keyword spotting, MFCC) or
            autoencoder (anomaly detection, log-mel frames).
        folder: holds `files(name)`.

    Raises:
        InputError: unknown name, missing or damaged files, weights that do not fit the graph.
    """
    path = folder / files(name)[0]
    try:
        nodes = _dscnn() if name == "dscnn" else json.loads((folder / files(name)[1]).read_text())
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            weights = {key: torch.from_numpy(file[key]) for key in file.files}
        count = sum(value.numel() for value in weights.values())
        if count != reference(name).numbers:
            raise InputError(f"{path} holds {count} numbers, expected {reference(name).numbers} for {name}.")
        return KerasGraph(_typed(nodes), weights).eval()
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path} and its graph give no {name}: {error}") from error


def _typed(nodes: list[dict[str, Any]]) -> list[Node]:
    """Return the nodes, with "features" of every batch norm: images or flat."""
    flat = {node["name"] for node in nodes if node["op"] == "Dense"}
    return [{**node, "features": "flat" if flat & set(node["inputs"]) else "images"} for node in nodes]


def _dscnn() -> list[dict[str, Any]]:
    """Return the graph of the keyword spotting DS-CNN (mlcommons/tiny, keyword_spotting/keras_model.py, v1.0)."""
    nodes: list[dict[str, Any]] = [{"op": "InputLayer", "name": "input", "inputs": []}]

    def add(op: str, name: str, **fields: object) -> None:
        nodes.append({"op": op, "name": name, "inputs": [nodes[-1]["name"]], **fields})

    for index in range(9):
        depthwise = index % 2 == 1
        kernel = (10, 4) if index == 0 else (3, 3) if depthwise else (1, 1)
        strides = (2, 2) if index == 0 else (1, 1)
        op = "DepthwiseConv2D" if depthwise else "Conv2D"
        add(op, f"conv{index}", kernel_size=kernel, strides=strides, padding="same")
        add("BatchNormalization", f"bn{index}", epsilon=1e-3)
        add("Activation", f"relu{index}")
    add("AveragePooling2D", "pool", pool_size=(24, 5), strides=(24, 5))
    add("Flatten", "flatten")
    add("Dense", "dense")
    return nodes
