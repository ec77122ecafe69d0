"""An ONNX graph whose nodes are moved: who makes a value, who reads it, and the constants."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quant_core.export.passes import reads
from quant_core.util.errors import BitfrontError


class Wiring:
    """A graph that is changed node by node; `finish` writes it back.

    Args:
        graph: of which the nodes are taken.
        constants: tensors that its nodes read, beside its initializers; new ones are appended.
    """

    def __init__(self, graph: onnx.GraphProto, constants: list[onnx.TensorProto]) -> None:
        self.graph, self.constants = graph, constants
        self.nodes = list(graph.node)
        self.tensors = {tensor.name: tensor for tensor in (*graph.initializer, *constants)}
        self.tensors |= {node.output[0]: node.attribute[0].t for node in self.nodes if node.op_type == "Constant"}
        self._ends = {value.name for value in graph.output}
        self._index()

    def _index(self) -> None:
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                self.users.setdefault(name, []).append(node)

    def scalar(self, name: str) -> float | None:
        """Return the constant of one element of that name, or None."""
        tensor = self.tensors.get(name)
        if tensor is None or int(np.prod(tensor.dims)) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def read_once(self, name: str) -> bool:
        """Tell whether one node reads a value, once, and the graph does not return it."""
        users = self.users.get(name, [])
        return name not in self._ends and len(users) == 1 and list(users[0].input).count(name) == 1

    def is_output(self, name: str) -> bool:
        """Tell whether the graph returns a value."""
        return name in self._ends

    def byte(self, value: int, kind: int) -> str:
        """Return the name of an 8-bit constant, which is added once."""
        return self.constant(helper.make_tensor(f"{TensorProto.DataType.Name(kind)}.{value}", kind, (), [value]))

    def constant(self, tensor: onnx.TensorProto) -> str:
        """Add a constant unless one of that name is there; return its name."""
        if tensor.name not in self.tensors:
            self.tensors[tensor.name] = tensor
            self.constants.append(tensor)
        return str(tensor.name)

    def replace(self, node: onnx.NodeProto, others: Sequence[onnx.NodeProto]) -> None:
        """Put `others`, already connected, in the place of a node."""
        place = next(i for i, other in enumerate(self.nodes) if other is node)
        self.nodes[place : place + 1] = others
        self._index()

    def finish(self) -> None:
        """Write the nodes back, producers before readers.

        Raises:
            BitfrontError: the nodes read one another's values in a circle.
        """
        made = {value.name for value in (*self.graph.input, *self.graph.initializer, *self.constants)} | {""}
        inner = set(self.producers)
        ordered: list[onnx.NodeProto] = []
        waiting = list(self.nodes)
        while waiting:
            later = []
            for node in waiting:
                if any(name in inner and name not in made for name in reads(node)):
                    later.append(node)
                    continue
                ordered.append(node)
                made |= set(node.output)
            if len(later) == len(waiting):
                raise BitfrontError(f"the ONNX graph has a circle at {later[0].output[0]!r}; report this.")
            waiting = later
        del self.graph.node[:]
        self.graph.node.extend(ordered)
