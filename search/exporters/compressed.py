"""`compressed-tensors/`: a folder that transformers and vLLM load: config.json with the quantization, and packed weights in safetensors.

The weights are packed by the compressors of the compressed-tensors library, and unpacked by them again: they are those of the policy, bit
for bit. Scales are stored in float32, in which the library computes.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.export.plain_file import write_tensors
from quant_core.export.stored import StoredLayer
from quant_core.network.parameters import own_modules
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import InputError
from quant_core.util.files import write_text
from quant_core.util.text import first_fault, listed
from search.exporters import Bundle, Exported
from search.exporters.compressed_weights import CONFIG, FORMATS, WEIGHTS, Place, packed, read_back, symmetric
from search.exporters.pretrained import inner_name
from search.exporters.recipe import FILE as RECIPE
from search.exporters.recipe import write_recipe
from search.exporters.schemes import arguments
from search.exporters.transformers_replay import replayed
from search.exporters.vllm import fault as vllm_fault

FOLDER = "compressed-tensors"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the folder, read it back, and run it by transformers in a fresh process.

    Raises:
        InputError: the library holds no such weights or inputs, or the network is none of transformers.
        BitfrontError: what is read back is not the policy, or the outputs are not those of the simulation.
    """
    _require_libraries()
    inner = _require_held(bundle)
    out = folder / FOLDER
    out.mkdir(parents=True)
    module = bundle.task.model.get_submodule(inner)
    places, config = _places(bundle, inner)
    state, notes = _state(bundle, inner, places)
    written = _config(module, config, state, places)
    write_tensors(out / WEIGHTS, state, {"format": "pt"})
    write_text(out / CONFIG, json.dumps(written, indent=1, sort_keys=True) + "\n")
    if hasattr(bundle.task.tokenizer, "save_pretrained"):
        bundle.task.tokenizer.save_pretrained(out)
    recipe, unread = write_recipe(out / RECIPE, _policies(bundle, inner))
    types = read_back(out, places)
    checks = replayed(bundle, out, inner) | {"stored_types": types, "config_groups": len(config["config_groups"])}
    checks |= {"file_bytes": (out / WEIGHTS).stat().st_size, "modelled_weight_bytes": weight_bytes(bundle.layers, bundle.policy)}
    files = tuple(sorted(str(path.relative_to(folder)) for path in out.rglob("*") if path.is_file()))
    return Exported(files, checks | {"recipe": recipe}, (*notes, *_for_vllm(bundle), *unread))


def fault(policy: LayerPolicy, inputs: int) -> str:
    """Return why a compressed-tensors folder cannot hold a linear layer of so many inputs, or ""."""
    weight, activation = policy.weight, policy.activation
    if weight.is_float:
        return "" if activation.is_float else f"activation {activation} with a float weight has no scheme; quantize the weight too"
    if weight.format not in FORMATS or weight.bits > 8 or weight.granularity == "vector":
        return f"compressed-tensors has no format for weight {weight}; use int1 to int8 by tensor, channel or group, nvfp4 or mxfp4"
    if not weight.symmetric:  # compressed-tensors 0.20 makes room for unpacked zero points, and its files have packed ones
        return f"transformers does not load the zero points of affine weight {weight}; use a symmetric one, {_symmetric_text(weight)}"
    block = weight.block or (1 if weight.format == "int" else 16)
    if weight.granularity in ("group", "block") and inputs % block:
        return f"blocks of {block} do not divide rows of {inputs} for {weight}; use int{weight.bits}:channel"
    form = (activation.format, activation.bits, activation.granularity)
    if not activation.is_float and (form != ("int", 8, "tensor") or activation.dynamic or weight.format != "int"):
        return f"compressed-tensors holds no activation {activation} with {weight}; use float, or int8:tensor with integer weights"
    return ""


def _symmetric_text(weight: QuantSpec) -> str:
    return str(weight).replace(":affine", "")


def refusal(layer: Layer, policy: LayerPolicy) -> str:
    """Return why the folder cannot hold a layer, or ""."""
    if policy == LayerPolicy() or not layer.calls or layer.kind == "embedding":
        return ""
    if layer.kind != "linear" or layer.channel_axis or len(layer.weight_shape) != 2:
        return f"compressed-tensors packs linear layers, this is a {layer.kind} of shape {layer.weight_shape}; use onnx"
    return fault(policy, layer.weight_shape[1])


def _policies(bundle: Bundle, inner: str) -> dict[str, LayerPolicy]:
    """Return the policies of the linear layers by their names in the transformers network."""
    prefix = f"{inner}." if inner else ""
    rows = [stored for stored in bundle.network.stored if stored.layer.kind == "linear" and stored.layer.calls]
    return {stored.layer.name.removeprefix(prefix): stored.policy for stored in rows if stored.layer.name.startswith(prefix)}


def _for_vllm(bundle: Bundle) -> tuple[str, ...]:
    """Return a note of the layers that transformers runs and vLLM has no kernel for."""
    rows = [stored for stored in bundle.network.stored if stored.layer.kind == "linear" and stored.layer.calls]
    faults = {stored.layer.name: vllm_fault(stored.policy, stored.layer.in_channels) for stored in rows}
    names = [name for name, reason in faults.items() if reason]
    return (f"vLLM does not run this folder, transformers does: {faults[names[0]]} ({listed(names)})",) if names else ()


def _require_libraries() -> None:
    for package, extra in (("compressed_tensors", "compressed-tensors"), ("transformers", "transformers")):
        if find_spec(package) is None:
            raise InputError(f"the format compressed-tensors needs {package}, which is not installed: pip install 'bitfront[{extra}]'.")


def _require_held(bundle: Bundle) -> str:
    """Return the place of the transformers network."""
    inner = inner_name(bundle.task.model)
    if inner is None:
        kind = type(bundle.task.model).__name__
        raise InputError(f"compressed-tensors folders hold networks of transformers, this is a {kind}; use safetensors, onnx or torchao.")
    modules = own_modules(bundle.task.model, bundle.layers)
    faults = []
    for stored in bundle.network.stored:
        layer = stored.layer
        reason = refusal(layer, stored.policy)
        if not reason and stored.policy != LayerPolicy() and (layer.name not in modules or not layer.name.startswith(inner)):
            reason = "it is no module of the transformers network; use onnx"
        faults += [f"layer {layer.name!r}: {reason}"] if reason else []
    if faults:
        raise InputError(f"{first_fault(faults)}.")
    return inner


def _places(bundle: Bundle, inner: str) -> tuple[list[Place], dict[str, Any]]:
    """Return the quantized layers, and the plain form of the library's `QuantizationConfig`: layers of one policy make one group."""
    prefix = f"{inner}." if inner else ""
    groups: dict[LayerPolicy, list[StoredLayer]] = {}
    for stored in bundle.network.stored:
        held = LayerPolicy() if stored.layer.kind == "embedding" else stored.policy
        groups.setdefault(held, []).append(stored)
    config: dict[str, Any] = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "config_groups": {}}
    places = []
    scheme_of = import_module("compressed_tensors.quantization").QuantizationScheme
    for policy, layers in groups.items():
        names = [stored.layer.name.removeprefix(prefix) for stored in layers]
        if policy.weight.is_float:
            config["ignore"] = names
            continue
        group, inputs = f"group_{len(config['config_groups'])}", None
        if not policy.activation.is_float:
            inputs = arguments(policy.activation, weight=False) | {"symmetric": symmetric(layers)}
        plain: dict[str, Any] = {"targets": names, "weights": arguments(policy.weight, weight=True), "input_activations": inputs}
        plain["format"] = FORMATS[policy.weight.format]
        config["config_groups"][group] = plain
        scheme = scheme_of.model_validate(plain)
        places += [Place(name, group, scheme, stored) for name, stored in zip(names, layers, strict=True)]
    used = sorted({entry["format"] for entry in config["config_groups"].values()})
    config["format"] = used[0] if len(used) == 1 else "mixed-precision"
    if not used:
        raise InputError(
            "the policy leaves every layer in float: a compressed-tensors folder has nothing to hold; save the network itself."
        )
    return places, config


def _state(bundle: Bundle, inner: str, places: list[Place]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of the transformers network, packed ones as the library packs them, and notes."""
    prefix, held = f"{inner}." if inner else "", {f"{place.name}.weight" for place in places}
    state, left = {}, []
    for name, tensor in bundle.network.plain.state_dict().items():
        if not name.startswith(prefix):
            left.append(name)
        elif name.removeprefix(prefix) not in held:
            state[name.removeprefix(prefix)] = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    for place in places:
        for part, tensor in packed(place).items():
            state[f"{place.name}.{part}"] = tensor
    notes = [f"the task's own weights are not in the folder: {listed(left)}"] if left else []
    embeddings = [row.layer.name for row in bundle.network.stored if row.layer.kind == "embedding" and row.encoded is not None]
    if embeddings:  # its `_init_weights` fails on a packed one
        notes.append(f"embeddings hold their quantized values in float32, because transformers loads no packed ones: {listed(embeddings)}")
    if any(place.stored.policy.weight.format != "int" for place in places):
        notes.append("compressed-tensors unpacks nvfp4 and mxfp4 in bfloat16, so the network is loaded and was run in bfloat16")
    return state, tuple(notes)


def _config(module: nn.Module, quantization: dict[str, Any], state: dict[str, Tensor], places: list[Place]) -> dict[str, Any]:
    """Return the content of config.json; `state` gets the zeros of biases that the network has there and the policy has not.

    Raises:
        InputError: bias correction made a bias that a network of this configuration has no place for.
    """
    config: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=False))  # type: ignore[union-attr, operator]
    config |= {"architectures": [type(module).__name__], "quantization_config": quantization}
    halved = any(place.stored.policy.weight.format != "int" for place in places)  # the library unpacks minifloats in bfloat16
    config["dtype"] = "bfloat16" if halved else "float32"
    tied = {place.name for place in places} & {"lm_head", "model.embed_tokens"}
    if config.get("tie_word_embeddings") and tied:
        config["tie_word_embeddings"] = False
    expected = _names(module, config)
    biases = [name for name in state if name.endswith(".bias") and name not in expected]
    if biases:
        config |= {key: True for key in ("attention_bias", "mlp_bias") if key in config}
        expected = _names(module, config)
        biases = [name for name in biases if name not in expected]
    if biases:
        raise InputError(
            f"layer {biases[0].removesuffix('.bias')!r} has a bias, for which {type(module).__name__} has no place: bias correction "
            "made it; set bias_correction = false under [evaluate], or leave the layer in float."
        )
    state |= {name: torch.zeros(shape) for name, shape in expected.items() if name.endswith(".bias") and name not in state}
    return config


def _names(module: nn.Module, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the parameters of a network of this configuration; nothing is allocated."""
    kind: Any = type(module.config)
    with torch.device("meta"):
        empty = type(module)(kind.from_dict({key: value for key, value in config.items() if key != "quantization_config"}))
    return {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
