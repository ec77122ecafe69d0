"""The ONNX exporter around the graph: batch sizes, and onnxruntime's options."""

import dataclasses
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from quant_core.export.graph import quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, post_training
from quant_core.network.forward import forward
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError
from search.exporters import Bundle
from search.exporters.card import _runtimes
from search.exporters.onnx_qdq import FILE, PACKED_FILE, export, export_matmulnbits
from search.exporters.verify import require_any_batch
from search.tasks.task import Task
from tests.search.exporters.language import VOCABULARY, bundle_under, task
from tests.search.exporters.language import bundle as sequences

X = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(0))


class Shaped(nn.Module):
    """A network that shapes what is between its layers by `shape`."""

    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.shape = nn.Linear(6, 6), nn.Linear(6, 3), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shape(self.first(x)))


def quantized(model: nn.Module) -> Quantized:
    layers = trace(model.eval(), X)
    policy = Policy({layer.name: parse_layer_policy("weight=int8:channel,activation=int8:tensor") for layer in layers})
    return post_training(PostTraining(model, layers, [X], X), model, layers, policy, X)


def checked(model: nn.Module) -> None:
    network = quantized(model)
    require_any_batch(network, Session(quantized_graph(network).model.SerializeToString(), ["input"], fuse=False), "the ONNX")


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x.reshape(x.shape[0], -1, 6),
        lambda x: x + torch.zeros(x.shape[0], 1, 6),
        lambda x: x.reshape(-1, 6),
        lambda x: x * torch.arange(x.shape[0]).view(-1, 1, 1).clamp(max=0).add(1),
    ],
)
def test_any_batch_size_runs(shape: Callable[[Tensor], Tensor]) -> None:
    checked(Shaped(shape))


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x.reshape(int(x.shape[0]), 5, 6),
        lambda x: x + torch.zeros(int(x.shape[0]), 1, 6),
        lambda x: x[: int(x.shape[0])] / int(x.shape[0]),
    ],
)
def test_a_batch_size_that_the_network_holds_as_a_constant_is_refused(shape: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"the ONNX graph runs at one batch size only \(.*x\.reshape\(x\.shape\[0\], -1\)\.$"):
        checked(Shaped(shape))


@pytest.mark.parametrize(("shape", "refused"), [(lambda x: x[:, : x.shape[1] - 1], False), (lambda x: x[:, : int(x.shape[1]) - 1], True)])
def test_a_length_that_the_network_holds_as_a_constant_is_refused(shape: Callable[[Tensor], Tensor], refused: bool) -> None:
    torch.manual_seed(0)
    network = dataclasses.replace(quantized(Shaped(shape)), others=(torch.cat([X, X], dim=1),))
    session = Session(quantized_graph(network).model.SerializeToString(), ["input"], fuse=False)
    with (
        pytest.raises(InputError, match=r"^the ONNX graph runs at one size of its inputs only \(.*pad all batches to one size\.$")
        if refused
        else nullcontext()
    ):
        require_any_batch(network, session, "the ONNX")


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def bundle(text: str, network: Callable[[], nn.Module] = small) -> Bundle:
    """Return the bundle of a policy of a small network, with 64 examples of the test split."""
    torch.manual_seed(0)
    model = network().eval()
    rows = X.reshape(-1, 6)
    layers = trace(model, rows)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    network = post_training(PostTraining(model, layers, [rows], rows), model, layers, policy, rows)
    batches = [(rows, network.simulation(rows).argmax(dim=1))]
    experiment = SimpleNamespace(evaluate=SimpleNamespace(test=0))
    task = Task(model, batches, batches, batches, batches)
    return Bundle(policy, tuple(layers), cast(Any, experiment), task, network, cast(Any, None), cast(Any, None), {}, measure=True)


def test_sequences_may_have_any_length_although_all_batches_have_one(tmp_path: Path) -> None:
    made = sequences("int7:channel", activation="int8:tensor")
    assert [note for note in export(made, tmp_path).notes if "are carried in INT8" not in note] == []
    session = Session(tmp_path / FILE, ["input"], fuse=False)
    for length in (1, 5, 31):
        tokens = torch.randint(0, VOCABULARY, (3, length), generator=torch.Generator().manual_seed(length))
        wanted = forward(made.network.simulation, tokens)
        assert float((session(tokens) - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())


class Steps(nn.Module):
    """Scores of every token, computed step by step: a graph of this network has as many steps as the example."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(16, 8), nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        state, outputs = self.table(tokens[:, 0]), []
        for x in self.table(tokens).unbind(dim=1):
            state = torch.tanh(self.cell(torch.cat([x, state], dim=1)))
            outputs.append(self.head(state))
        return torch.stack(outputs, dim=1)


def test_where_the_graph_holds_for_one_length_alone_a_note_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    exported = export(bundle_under(task(Steps().eval()), "int8:channel"), tmp_path)
    (note,) = exported.notes
    said = r"it takes sequences of the length of the data alone: the ONNX graph runs at one size of its inputs only \(.*\)"
    assert re.fullmatch(said, note), note
    assert exported.checks["top1_agreement"] == 1.0


def test_kernels_types_and_latency_are_in_the_checks_and_the_card(tmp_path: Path) -> None:
    made = bundle("weight=int7:channel,activation=int8:tensor:ema")
    exported = export(made, tmp_path)
    assert exported.checks["integer_linears"] == "2 of 2"
    assert exported.checks["stored_types"] == "INT8 x 2"
    assert exported.checks["onnxruntime_options"] == "default"
    section = "".join(_runtimes(dataclasses.replace(made, written={"onnx": exported})))
    assert "2 of 2 linear layers are computed by integers; options: default; top-1 agrees" in section
    assert str(exported.checks["verdict"]) in section


def test_packed_products_have_a_file_of_their_own(tmp_path: Path) -> None:
    exported = export_matmulnbits(bundle("weight=int4:channel"), tmp_path)
    assert exported.files == (PACKED_FILE,)
    assert (exported.checks["integer_linears"], exported.checks["stored_types"]) == ("2 of 2", "4 bits x 2")
