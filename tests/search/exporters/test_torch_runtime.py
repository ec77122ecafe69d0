"""Plain PyTorch with torchao's tensors as a runtime."""

from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import torch_runtime
from search.exporters.runtimes import example_arrays, runtime


class Tokens(nn.Module):
    """An embedding and two linear layers on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.second = nn.Embedding(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map [N, T] to [N, T, 4]."""
        outputs: torch.Tensor = self.second(torch.relu(self.first(self.words(ids))))
        return outputs


def network(model: nn.Module, batch: torch.Tensor, text: str, **others: str) -> Quantized:
    layers = trace(model, batch)
    choices = {layer.name: parse_layer_policy(others.get(layer.name.replace(".", "_"), text)) for layer in layers}
    return post_training(PostTraining(model, layers, [batch], batch), model, layers, Policy(choices), batch)


def sequences(text: str, **others: str) -> Quantized:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network(Tokens().eval(), torch.randint(16, (8, 5)), text, **others)


def test_products_of_sequences_are_computed_by_integers_and_embeddings_hold_their_values(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    tokens = sequences("weight=int4:channel,activation=int8:tensor", words="weight=int8:channel")
    target = runtime("torch")
    path = target.write(tokens, tmp_path)
    wanted = tokens.simulation(tokens.example)[:1].detach().numpy()
    assert abs(target.outputs(path, example_arrays(tokens.example)) - wanted).max() <= 1e-5
    rows = target.kernels(path, ["words", "first", "second"]).layers
    assert [(row.kind, row.kernel) for row in rows] == [("embedding", "float32"), ("linear", "int8"), ("linear", "int8")]
    assert target.stored_types(path, tokens.stored) == "float32 x 1, int8 x 2"


def test_a_file_of_other_values_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    path = runtime("torch").write(sequences("weight=int4:channel"), tmp_path)
    with pytest.raises(BitfrontError, match=r"layer 'words' does not hold the values of int8:channel \(and 2 more layers\)"):
        torch_runtime.TORCH.stored_types(path, sequences("weight=int8:channel").stored)


def test_quantized_inputs_of_float_weights_pass_through_torchs_quantizer(tmp_path: Path) -> None:
    tokens = sequences("activation=int8:tensor", words="weight=float")
    path = runtime("torch").write(tokens, tmp_path)
    wanted = tokens.simulation(tokens.example)[:1].detach().numpy()
    assert abs(runtime("torch").outputs(path, example_arrays(tokens.example)) - wanted).max() <= 1e-5


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("weight=int8:tensor", "torchao has no configuration for weight int8:tensor"),
        ("weight=int4:group32,activation=int8:tensor", "multiplies int8 inputs by symmetric int1 to int8 weights by channel, not by int4"),
        ("weight=int8:channel,activation=int4:tensor", "multiplies integers where inputs are int8:tensor, not int4:tensor"),
    ],
)
def test_what_torchao_does_not_hold_is_refused_by_name(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=rf"layer 'first': .*{match}"):
        runtime("torch").write(sequences(text, words="weight=float"), tmp_path)


def test_convolutions_and_a_missing_torchao_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    with pytest.raises(InputError, match="layer '0': torchao quantizes linear layers, this is a conv"):
        runtime("torch").write(network(model, torch.rand(2, 1, 4, 4), "weight=int8:channel"), tmp_path)
    monkeypatch.setattr(torch_runtime, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="needs torchao for quantized weights, which is not installed: pip install torchao"):
        runtime("torch").write(sequences("weight=int8:channel"), tmp_path)
    assert not list(tmp_path.iterdir())
