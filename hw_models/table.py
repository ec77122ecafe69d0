"""`CostTable`: the cost of every choice of every layer, computed once; a policy's cost is then a gather and a sum."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_models.device import Device
from hw_models.layer_metrics import layer_metrics
from hw_models.models import FloatArray, IntArray, LayerChoices, LayerCost, Pair, find_model, moves_as
from hw_models.schema.codes import code_of
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.text import listed

PEAK = frozenset({"peak_activation_bytes"})
_CHUNK = 2048
_SMALL = 32
_SHOWN = 6  # faults that an error message lists


@dataclass(frozen=True, eq=False)
class CostTable:
    """Cost of L layers under their choices on one device.

    Metrics are in SI units. `latency_s` and `energy_j` are for one pass of `batch` examples; `macs`, `bit_ops` and
    `peak_activation_bytes` are per example; `weight_bytes` counts the weights with all their metadata, each shared weight once, and
    not the biases (they stay in float32 and do not depend on the policy).

    Attributes:
        device: name of the device.
        batch: examples of one pass.
        layers: [L] in network order.
        choices: per layer its choices, as `Space.layer_choices` orders them.
        values: metric -> [L, K], K the most choices of any layer; padded with inf.
        peak: metrics whose total is the max over layers; the others are summed.
        limits: metric -> hard limit of the device.
        details: per layer the answer of the model: [K] arrays of time and energy by part, for one call.
        pairs: what the choices of two layers together add to a metric.
    """

    device: str
    batch: int
    layers: tuple[Layer, ...]
    choices: tuple[tuple[LayerPolicy, ...], ...]
    values: Mapping[str, FloatArray]
    limits: Mapping[str, float]
    details: tuple[LayerCost, ...]
    peak: frozenset[str] = field(default=PEAK)
    pairs: tuple[Pair, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics this device gives."""
        return tuple(self.values)

    @cached_property
    def _flat(self) -> FloatArray:
        """[M, L * K]: all metrics as rows."""
        return np.stack([self.values[metric].ravel() for metric in self.values])

    @cached_property
    def _offsets(self) -> IntArray:
        """[L]: where each layer's row begins in `_flat`."""
        return np.arange(len(self.layers), dtype=np.int64) * self._width

    @cached_property
    def _counts(self) -> NDArray[np.uint64]:
        """[L]: how many choices each layer has."""
        return np.array([len(choices) for choices in self.choices], dtype=np.uint64)

    @property
    def _width(self) -> int:
        return max(map(len, self.choices))

    @cached_property
    def _reduce(self) -> tuple[np.ufunc, ...]:
        return tuple(np.maximum if metric in self.peak else np.add for metric in self.values)

    def cost(self, index: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return every metric of policies [N, L] (indices into `choices`) as arrays [N].

        Layers are added in network order, so a batch equals the plain sum of a loop over layers bit for bit.

        Raises:
            InputError: the index array has the wrong shape, or an index is out of range.
        """
        if index.ndim != 2 or index.shape[1] != len(self.layers):
            raise InputError(f"index array of shape {index.shape} given; [N, {len(self.layers)}] is needed: one column per layer.")
        index = index.astype(np.int64, copy=False)
        if not (index.view(np.uint64) < self._counts).all():  # unsigned, a negative index is a large one
            n, position = np.argwhere((index < 0) | (index >= self._counts.astype(np.int64)))[0]
            legal = f"legal: 0 to {len(self.choices[position]) - 1}"
            raise InputError(f"policy {n}, layer {self.layers[position].name!r}: choice {index[n, position]} given; {legal}.")
        if len(index) <= _SMALL:
            picked = self._flat.take(index + self._offsets, axis=1)
            return self._with_pairs(index, [reduce.accumulate(picked[m], axis=1)[:, -1] for m, reduce in enumerate(self._reduce)])
        totals = np.empty((len(self.values), len(index)))
        for start in range(0, len(index), _CHUNK):
            totals[:, start : start + _CHUNK] = self._chunk(index[start : start + _CHUNK])
        return self._with_pairs(index, totals)

    def _with_pairs(self, index: NDArray[np.int64], totals: Iterable[FloatArray]) -> dict[str, FloatArray]:
        """Return metric -> [N]: the totals of layers [M, N], and what pairs of choices add."""
        costs = dict(zip(self.values, totals, strict=True))
        for pair in self.pairs:
            costs[pair.metric] = costs[pair.metric] + pair.added[index[:, pair.first], index[:, pair.second]]
        return costs

    def _chunk(self, index: NDArray[np.int64]) -> FloatArray:
        """Cost a batch that fits the cache: [N, L] -> [M, N]."""
        columns = np.ascontiguousarray((index + self._offsets).T)
        totals = np.empty((len(self.values), len(index)))
        scratch = np.empty(len(index))
        for row, total, reduce in zip(self._flat, totals, self._reduce, strict=True):
            row.take(columns[0], out=total, mode="clip")
            for column in columns[1:]:
                reduce(total, row.take(column, out=scratch, mode="clip"), out=total)
        return totals

    @cached_property
    def _lookup(self) -> tuple[dict[LayerPolicy, int], ...]:
        return tuple({choice: k for k, choice in enumerate(choices)} for choices in self.choices)

    def index(self, policy: Mapping[str, LayerPolicy]) -> NDArray[np.int64]:
        """Return the index row [L] of a policy.

        Raises:
            InputError: a layer is missing or takes a choice that the table was not built for.
        """
        row = np.empty(len(self.layers), dtype=np.int64)
        for position, (layer, lookup) in enumerate(zip(self.layers, self._lookup, strict=True)):
            choice = policy.get(layer.name)
            if choice is None or choice not in lookup:
                raise InputError(f"layer {layer.name!r}: {choice} is not in this table; it holds {listed(self.choices[position], 4)}.")
            row[position] = lookup[choice]
        return row

    def totals(self, policy: Mapping[str, LayerPolicy]) -> dict[str, float]:
        """Return every metric of one policy.

        Raises:
            InputError: a layer is missing or takes a choice that the table was not built for.
        """
        return {metric: float(value[0]) for metric, value in self.cost(self.index(policy)[None]).items()}

    def by_layer(self, row: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return metric -> [L]: the costs of the layers at an index row [L]; what a pair adds is the first layer's."""
        costs = {metric: values[np.arange(len(row)), row] for metric, values in self.values.items()}
        for pair in self.pairs:
            costs[pair.metric][pair.first] += pair.added[row[pair.first], row[pair.second]]
        return costs

    def excess(self, policy: Mapping[str, LayerPolicy]) -> tuple[str, ...]:
        """Return one sentence per hard limit of the device that `policy` breaks, naming the layer that needs most."""
        row, totals = self.index(policy), self.totals(policy)
        sentences = []
        for metric, limit in self.limits.items():
            if totals[metric] > limit:
                column = self.values[metric][np.arange(len(row)), row]
                worst = self.layers[int(column.argmax())].name
                sentences.append(f"{metric} {totals[metric]:.0f} is over the {limit:.0f} of {self.device}; layer {worst!r} needs most.")
        return tuple(sentences)

    def explain(self, policy: Mapping[str, LayerPolicy]) -> list[dict[str, Any]]:
        """Return per layer its choice, every metric, and where time and energy go (compute, memory, stall; energy by part).

        Raises:
            InputError: a layer is missing or takes a choice that the table was not built for.
        """
        rows, index = [], self.index(policy)
        costs = self.by_layer(index)
        for position, k in enumerate(index):
            layer, detail, calls = self.layers[position], self.details[position], self.layers[position].calls
            choice = self.choices[position][k]
            row: dict[str, Any] = {"layer": layer.name, "kind": layer.kind, "weight": str(choice.weight)}
            row["activation"] = str(choice.activation)
            row |= {metric: float(values[position]) for metric, values in costs.items()}
            if detail.compute_s is not None and detail.latency_s is not None:
                row["compute_s"] = float(detail.compute_s[k] * calls)
                row["stall_s"] = float((detail.latency_s[k] - detail.compute_s[k]) * calls)
            if detail.memory_s is not None:
                row["memory_s"] = float(detail.memory_s[k] * calls)
            row["energy_parts_j"] = {part: float(values[k] * calls) for part, values in detail.energy_j.items()}
            row["note"] = detail.notes[k] if detail.notes else ""
            rows.append(row)
        return rows


def build_table(device: Device, layers: Sequence[Layer], choices: Mapping[str, Sequence[LayerPolicy]]) -> CostTable:
    """Cost every choice of every layer.

    Raises:
        InputError: a choice that the device cannot run, naming the layer and what is legal.
    """
    missing = [layer.name for layer in layers if not choices.get(layer.name)]
    if missing or not layers:
        raise InputError(f"no choices given for layers {listed(missing) or '(there are no layers)'}; give at least one each.")
    offered = tuple(tuple(choices[layer.name]) for layer in layers)
    runs = _runs(device, layers, offered)
    model = find_model(device.file.identity.kind)
    cost_layer, pairs = model.build(device), model.pairs(device, layers, runs) if model.pairs else ()
    verb = "runs and moves as" if moves_as(device) == "run" else "runs as"
    details = tuple(
        _noted(cost_layer(layer, run), run, verb) if layer.calls else LayerCost() for layer, run in zip(layers, runs, strict=True)
    )
    width = max(map(len, offered))
    rows = [layer_metrics(layer, run, detail) for layer, run, detail in zip(layers, runs, details, strict=True)]
    called = [row for row, layer in zip(rows, layers, strict=True) if layer.calls] or rows
    values = {metric: np.full((len(layers), width), np.inf) for metric in called[0]}
    for position, row in enumerate(rows):
        for metric, matrix in values.items():
            matrix[position, : len(offered[position])] = row.get(metric, 0.0)
    return CostTable(device.name, device.batch, tuple(layers), offered, values, _limits(device), details, pairs=pairs)


def cost_policy(device: Device, layers: Sequence[Layer], policy: Mapping[str, LayerPolicy]) -> dict[str, float]:
    """Return every metric of one policy. To cost many, build the table once and use `CostTable.cost`.

    Raises:
        InputError: a layer takes what the device cannot run, or has no entry in the policy.
    """
    missing = [layer.name for layer in layers if layer.name not in policy]
    if missing:
        raise InputError(f"the policy has no entry for {listed(missing)}; it names {listed(policy)}.")
    return build_table(device, layers, {layer.name: (policy[layer.name],) for layer in layers}).totals(policy)


def _runs(device: Device, layers: Sequence[Layer], listed: Sequence[tuple[LayerPolicy, ...]]) -> list[LayerChoices]:
    """Return the choices of every layer as the device runs them; a layer that is never called may take anything.

    Raises:
        InputError: a choice that the device cannot run.
    """
    runs: list[LayerChoices] = []
    faults: list[str] = []
    for layer, choices in zip(layers, listed, strict=True):
        legal = device.legal(layer)
        codes = [legal.run_as(choice) if layer.calls else ("float", "float") for choice in choices]
        illegal = [str(choice) for choice, code in zip(choices, codes, strict=True) if code is None]
        if illegal:
            more = f" (and {len(illegal) - 1} more)" if len(illegal) > 1 else ""
            faults.append(f"layer {layer.name!r} ({layer.kind}): {device.name} cannot run {illegal[0]}{more}; legal: {legal}.")
        pairs = [code for code in codes if code is not None]
        bits = {choice.weight: float(choice.weight.storage_bits(layer.weight_shape, layer.channel_axis)) for choice in choices}
        stored = np.array([bits[choice.weight] for choice in choices])
        runs.append(LayerChoices(choices, tuple(w for w, _ in pairs), tuple(a for _, a in pairs), stored))
    if faults:
        rest = [f"... and {len(faults) - _SHOWN} more layers"] if len(faults) > _SHOWN else []
        raise InputError("\n".join([*faults[:_SHOWN], *rest]))
    return runs


def _noted(cost: LayerCost, run: LayerChoices, verb: str) -> LayerCost:
    """Return a cost whose notes also say what a choice runs as, where that is another pair of codes than its own."""
    notes = []
    for k, policy in enumerate(run.policies):
        asked, pair = f"{code_of(policy.weight)}/{code_of(policy.activation)}", f"{run.weight[k]}/{run.activation[k]}"
        texts = (cost.notes[k] if cost.notes else "", f"{verb} {pair}" if asked != pair else "")
        notes.append(", ".join(filter(None, texts)))
    return replace(cost, notes=tuple(notes) if any(notes) else ())


def _limits(device: Device) -> dict[str, float]:
    limits = device.file.constraints
    named = {"peak_activation_bytes": limits.sram_bytes, "weight_bytes": limits.flash_bytes} if limits else {}
    return {metric: limit for metric, limit in named.items() if limit is not None}
