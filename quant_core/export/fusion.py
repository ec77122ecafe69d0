"""Quantizers moved to the convolutions before them, so that runtimes fuse each with its quantizers into one integer kernel.

Every move is exact. QuantizeLinear Q is monotone, so Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b)), and Q of a maximum, a concatenation or a
reshape is that of its parts. Where Q saturates at the ends of a clip, as for ReLU6 and a range within [0, 6], no clip is left.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quant_core.export.wiring import Wiring

MOVED = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Identity"})
BYTES = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}


def move_quantizers(wiring: Wiring) -> None:
    """Move every 8-bit quantizer before the operators that commute with it, where nothing but the quantizer reads their result."""
    waiting = [node for node in wiring.nodes if _stored_bytes(node, wiring) is not None]
    while waiting:
        quantizer = waiting.pop()
        producer = wiring.producers.get(quantizer.input[0])
        if producer is None or not wiring.read_once(quantizer.input[0]):
            continue
        if producer.op_type in ("Relu", "Clip"):
            waiting += [quantizer] if _behind_quantizer(producer, quantizer, wiring) else []
        elif producer.op_type in MOVED and len(producer.output) == 1:
            waiting += _before(producer, quantizer, wiring, 1)
        elif producer.op_type == "Concat" and all(wiring.read_once(name) for name in producer.input):
            waiting += _before(producer, quantizer, wiring, len(producer.input))


def _stored_bytes(node: onnx.NodeProto, wiring: Wiring) -> int | None:
    """Return the 8-bit type of a quantizer of a whole tensor, or None for any other node."""
    if node.op_type != "QuantizeLinear" or len(node.input) < 3 or wiring.scalar(node.input[1]) is None:
        return None
    zero_point = wiring.tensors.get(node.input[2])
    return zero_point.data_type if zero_point is not None and zero_point.data_type in BYTES else None


def _before(operator: onnx.NodeProto, quantizer: onnx.NodeProto, wiring: Wiring, inputs: int) -> list[onnx.NodeProto]:
    """Let `operator` move integers: quantize its first `inputs` inputs. Return the new quantizers."""
    made = []
    output = quantizer.output[0]
    for i in range(inputs):
        name = f"{output}.{operator.op_type}{i}"
        made.append(helper.make_node("QuantizeLinear", [operator.input[i], *quantizer.input[1:]], [name]))
        operator.input[i] = name
    operator.output[0] = output
    wiring.replace(quantizer, made)
    return made


def _behind_quantizer(clip: onnx.NodeProto, quantizer: onnx.NodeProto, wiring: Wiring) -> bool:
    """Replace a clip before a quantizer by one of its codes, or by none where the quantizer saturates there; tell whether it was done."""
    ends = _ends(clip, wiring)
    kind = _stored_bytes(quantizer, wiring)
    if ends is None or kind is None:
        return False
    low, high = (_code(end, quantizer, wiring, kind) for end in ends)
    quantizer.input[0] = clip.input[0]
    _limit(quantizer, low, high, wiring, kind)
    wiring.replace(clip, [])
    return True


def _limit(quantizer: onnx.NodeProto, low: int, high: int, wiring: Wiring, kind: int) -> None:
    """Clip the codes of a quantizer to [low, high] by one node, or by none where its type ends there."""
    output = quantizer.output[0]
    reader = wiring.users[output][0] if wiring.read_once(output) else None
    if reader is not None and reader.op_type == "Clip":
        inner = [int(end) for name in reader.input[1:3] if (end := wiring.scalar(name)) is not None]
        reader.input[1], reader.input[2] = (wiring.byte(min(max(bound, inner[0]), inner[1]), kind) for bound in (low, high))
    elif (low, high) != BYTES[kind]:
        quantizer.output[0] = f"{output}.wide"
        bounds = [wiring.byte(bound, kind) for bound in (low, high)]
        wiring.replace(quantizer, [quantizer, helper.make_node("Clip", [f"{output}.wide", *bounds], [output])])
        return
    wiring.replace(quantizer, [quantizer])


def _ends(clip: onnx.NodeProto, wiring: Wiring) -> tuple[float, float] | None:
    """Return the bounds of a Relu or Clip, or None where they are not constants in order."""
    if clip.op_type == "Relu":
        return 0.0, np.inf
    names = [*clip.input[1:], "", ""][:2]
    low, high = (wiring.scalar(name) if name else default for name, default in zip(names, (-np.inf, np.inf), strict=True))
    return None if low is None or high is None or not low <= high else (low, high)


def _code(value: float, quantizer: onnx.NodeProto, wiring: Wiring, kind: int) -> int:
    """Return the code that QuantizeLinear gives a value: saturate(round(x / scale) + zero point), halves to even."""
    scale, zero_point = (numpy_helper.to_array(wiring.tensors[name]).reshape(()) for name in quantizer.input[1:3])
    low, high = BYTES[kind]
    return int(np.clip(np.rint(np.float32(value) / np.float32(scale)) + int(zero_point), low, high))
