"""`bitfront probe`: which kernels a runtime has for which bits, found by exporting a small network in every one of them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from hw_models.profiling.host import processor
from hw_models.runtimes import KernelTable, RuntimeFile
from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.util.errors import BitfrontError
from search.exporters.runtimes import Runtime, example_arrays

BITS = tuple(range(2, 9))
CASES = tuple((granularity, activation) for granularity in ("channel", "group32") for activation in ("float", "int8"))
TOLERANCE = 0.05
"""Of the largest output: runtimes round float inputs of packed products to 8 bits."""


class _Chain(nn.Module):
    """One layer of every kind, in a row, so that each one's input is quantized behind the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.conv_transpose = nn.ConvTranspose2d(32, 64, 2, stride=2)
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 64]."""
        x = torch.relu(self.depthwise(torch.relu(self.conv(x))))
        outputs: Tensor = self.linear(torch.relu(self.conv_transpose(x)).mean(dim=(2, 3)))
        return outputs


def probe(runtime: Runtime) -> Iterator[tuple[int, int, RuntimeFile | None]]:
    """Yield (cases done, cases, None) as the probe goes on, with the kernels in place of None at the end."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = _Chain().eval(), torch.rand(4, 32, 8, 8)
    layers = tuple(trace(model, inputs))
    engine = PostTraining(model, layers, [inputs], inputs)

    def quantized(policy: Policy) -> Quantized:
        return post_training(engine, model, layers, policy, inputs)

    total, done, tables = len(CASES) * len(BITS), 0, []
    for granularity, activation in CASES:
        rows: dict[str, tuple[dict[str, str], dict[str, str]]] = {layer.name: ({}, {}) for layer in layers}
        for bits in BITS:
            choice = LayerPolicy(parse(f"int{bits}:{granularity}"), parse("int8:tensor") if activation == "int8" else FLOAT)
            for name, (stored, kernel) in _kernels(quantized, layers, choice, runtime).items():
                rows[name][0][f"int{bits}"], rows[name][1][f"int{bits}"] = stored, kernel
            done += 1
            yield done, total, None
        tables += [
            KernelTable.model_validate(
                {
                    "layer": layer.kind,
                    "granularity": granularity,
                    "activation": activation,
                    "stored": rows[layer.name][0],
                    "runs": rows[layer.name][1],
                }
            )
            for layer in layers
        ]
    head = {"schema": 1, "runtime": runtime.name, "version": runtime.version, "cpu": processor()}
    day = datetime.now(UTC).date().isoformat()
    yield total, total, RuntimeFile.model_validate({**head, "probed": day, "kernels": tuple(tables)})


def _kernels(
    quantized: Callable[[Policy], Quantized], layers: Sequence[Layer], choice: LayerPolicy, runtime: Runtime
) -> dict[str, tuple[str, str]]:
    """Return layer -> (stored type, kernel) under a choice.

    The weights of layers that the runtime's files do not hold are float meanwhile, their inputs as in the choice: what
    the kernel of a layer is may depend on its neighbours.
    """
    rows = {layer.name: ("", f"refused: {fault}") for layer in layers if (fault := runtime.refusal(layer, choice))}
    asked = [layer.name for layer in layers if layer.name not in rows]
    if not asked:
        return rows
    rest = LayerPolicy(FLOAT, choice.activation)
    try:
        network = quantized(Policy({layer.name: rest if layer.name in rows else choice for layer in layers}))
        return rows | _written(network, asked, runtime)
    except BitfrontError as error:
        return rows | dict.fromkeys(asked, ("", f"refused: {error}"))


def _written(network: Quantized, asked: Sequence[str], runtime: Runtime) -> dict[str, tuple[str, str]]:
    """Return layer -> (stored type, kernel) of some layers of one network.

    Raises:
        BitfrontError: the runtime does not hold it or run it, or gives other outputs than the simulation.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.write(network, Path(folder))
        outputs = torch.from_numpy(runtime.outputs(path, example_arrays(network.example)).copy())
        with torch.no_grad():
            wanted = network.simulation(network.example)[:1]
        if float((outputs - wanted).abs().max()) > TOLERANCE * float(wanted.abs().max()):
            raise BitfrontError("other outputs than the simulation's")
        run_by = {row.layer: row.kernel for row in runtime.kernels(path, [stored.layer.name for stored in network.stored]).layers}
        return {
            stored.layer.name: (runtime.stored_types(path, [stored]).partition(" x ")[0], run_by.get(stored.layer.name, "float32"))
            for stored in network.stored
            if stored.layer.name in asked
        }
