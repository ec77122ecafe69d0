"""What formats cannot hold, known before a search."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.spec.policy import LayerPolicy, parse_layer_policy
from quant_core.util.errors import InputError
from search.exporters import EXPORTERS
from search.exporters.support import REFUSALS, check_formats
from tests.search.exporters.language import Logits, language_model

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.Linear(5, 2)).eval()


def check(formats: tuple[str, ...], *texts: str, model: nn.Module | None = None, x: Tensor = X) -> None:
    model = model or network()
    layers = trace(model, x)
    choices: dict[str, list[LayerPolicy]] = {layer.name: [parse_layer_policy(text) for text in texts] for layer in layers}
    check_formats(formats, model, x, layers, choices)


STATIC, TOKEN = "weight=int8:channel,activation=int8:tensor", "weight=int8:channel,activation=int8:token"


@pytest.mark.parametrize(
    ("formats", "texts"),
    [
        (("policy", "safetensors", "card"), (TOKEN, "weight=kmeans4:tensor")),
        (("onnx", "c-array", "executorch", "litert"), (STATIC,)),
        (("onnx", "c-array"), (TOKEN, STATIC)),
        (("torchao", "vllm"), ("weight=int3:channel", "weight=float")),
    ],
)
def test_a_choice_per_layer_is_enough(formats: tuple[str, ...], texts: tuple[str, ...]) -> None:
    check(formats, *texts)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("onnx", TOKEN, r"format onnx holds no choice of layer '0' and 2 more: the range of activation int8:token changes"),
        ("onnx", "weight=mxfp4", r"format onnx holds no choice of layer '0' and 2 more: ONNX has no operator for mxfp4; use nvfp4"),
        ("c-array", TOKEN, r"format c-array holds no choice of layer '0' and 2 more: activation int8:token; a range from calibration"),
        ("vllm", STATIC, r"format vllm holds no choice of layer '0': vLLM quantizes linear layers, this is a conv; use onnx\. Allow"),
        ("torchao", "weight=float,activation=int8:tensor", r"torchao quantizes linear.*layer '3' and 1 more: torchao has no configuration"),
        (
            "executorch",
            "weight=mxfp4",
            r"format executorch holds no choice of layer '0' and 2 more: ExecuTorch reads no mxfp4; use int8:ch",
        ),
        (
            "litert",
            "weight=int4:group8",
            r"format litert holds no choice of layer '0' and 1 more: LiteRT reads no int4:group8; use int8:ch",
        ),
        ("onxx", STATIC, "unknown export format 'onxx'.*Did you mean 'onnx'"),
    ],
)
def test_what_a_format_cannot_hold_is_one_sentence(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check((name,), text)


def test_a_network_that_onnx_cannot_represent_is_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 3)).bfloat16().eval()
    with pytest.raises(InputError, match="ONNX cannot represent this network: it computes in bfloat16"):
        check(("safetensors", "onnx"), STATIC, model=model, x=torch.rand(4, 6).bfloat16())
    check(("safetensors",), STATIC, model=model, x=torch.rand(4, 6).bfloat16())


def test_a_network_that_torch_export_cannot_represent_is_refused() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    model, x = nn.Sequential(Branches(6, 3)).eval(), torch.rand(4, 6)
    with pytest.raises(InputError, match=r"torch\.export cannot represent this network"):
        check(("executorch",), STATIC, model=model, x=x)
    check(("safetensors",), STATIC, model=model, x=x)


def test_a_network_with_an_operator_that_litert_lacks_is_refused() -> None:
    class Erf(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(super().forward(x))

    model, x = nn.Sequential(Erf(6, 3)).eval(), torch.rand(4, 6)
    with pytest.raises(
        InputError, match=r"^LiteRT cannot represent this network: it has no operator for ONNX's Erf\. Use onnx or openvino\.$"
    ):
        check(("litert",), STATIC, model=model, x=x)
    check(("onnx",), STATIC, model=model, x=x)


def test_matmulnbits_needs_one_layer_that_it_holds() -> None:
    check(("onnx-matmulnbits",), "weight=int4:channel", STATIC)
    with pytest.raises(
        InputError, match=r"matmulnbits holds no choice of any layer: MatMulNBits is for linear layers, this is a conv; use"
    ):
        check(("onnx-matmulnbits",), STATIC)
    with pytest.raises(InputError, match=r"matmulnbits holds no choice of any layer: every weight is float; use onnx\. Allow such layers"):
        check(("onnx-matmulnbits",), "weight=float")
    with pytest.raises(
        InputError, match=r"format onnx-matmulnbits holds no choice of layer '0' and 2 more: ONNX has no operator for mxfp4"
    ):
        check(("onnx-matmulnbits",), "weight=mxfp4")


def test_a_bias_without_a_place_in_llama_cpp_is_seen_before_the_search() -> None:
    model = Logits(language_model()).eval()
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    layers = trace(model, tokens)
    choices = {layer.name: [parse_layer_policy("weight=int4:group32")] for layer in layers}
    with pytest.raises(
        InputError, match=r"^format gguf holds no choice of layer 'model\.lm_head': bias correction gives it a bias, for which"
    ):
        check_formats(("gguf",), model, tokens, layers, choices, bias_correction=True)
    check_formats(("gguf",), model, tokens, layers, choices)
    choices["model.lm_head"] = [*choices["model.lm_head"], LayerPolicy()]
    check_formats(("gguf",), model, tokens, layers, choices, bias_correction=True)


def test_every_checked_format_is_one_of_export() -> None:
    assert set(REFUSALS) < set(EXPORTERS)


@pytest.mark.parametrize(("formats", "code"), [('["onnx"]', 2), ('["safetensors"]', 0)])
def test_a_sweep_is_refused_before_its_first_trial(
    bitfront: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formats: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '[task]\nname = "own_task:make"\n[space]\nweight = ["int8:channel"]\nactivation = ["int8:token", "int4:token"]\n'
    text += '[device]\nname = "counts"\n[search]\nsearcher = "random"\ntrials = 2\n'
    (tmp_path / "sweep.toml").write_text(f"{text}[export]\nformats = {formats}\n")
    done = bitfront("sweep", "sweep.toml")
    assert done.returncode == code, done.stderr
    assert ("format onnx holds no choice of layer '0' and 2 more: the range of activation int8:token" in done.stderr) == (code == 2)
