"""`roofline`: peak arithmetic against memory bandwidth (Williams et al., CACM 2009), and a fit of measured layers that corrects it.

Datasheet: t = launch + max(2 MACs / peak of the pair of FORMATS, (input + weight + output bytes) / bandwidth). It is off by a
factor of ten on real layers, so a pair that was measured is costed by its calibration instead, non-negative and fitted by relative
least squares. A processor that waits for memory (`features`, of `lut` and `measured` devices) takes
    t = c0 + c1 MACs + c2 (input bytes + 4 output elements) + c3 weight bytes,
and a GPU whose layers are too small to fill it (`launch_features`) takes
    t = c0 + c1 MACs + c4 outputs + c5 depth,
where an output is a 32-bit write and depth, the products that one output sums, is the loop that no thread can shorten: so layers of
different kind and size run at different rates. A device can run a narrow pair as a wider one, so a calibrated pair costs at most
what a wider calibrated pair does, and an uncalibrated one at least what narrower calibrated pairs do.
"""

from collections.abc import Sequence

import numpy as np

from hw_models.device import Device
from hw_models.models import FloatArray, GoldenComparison, LayerChoices, LayerCost, LayerModel, Model
from hw_models.schema.codes import code_bits
from hw_models.schema.device_file import Calibration, Compute, Golden, Pair, Positive, SourceIds, Table
from hw_models.shapes import figure, layer_of, need_columns, read_rows
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed

_COLUMNS = ("network", "in_channels", "out_channels", "kernel", "in_size", "out_size", "batch")


class Peak(Table):
    """Dense peak of one pair of formats; a multiply-accumulate is two operations."""

    pair: Pair
    ops_per_s: Positive
    source: SourceIds


class RooflineCompute(Compute):
    """Peaks per pair of formats; a pair that is legal but not listed is refused."""

    peak: tuple[Peak, ...]


def features(layer: Layer, batch: int, weight_bytes: FloatArray, a_bits: FloatArray) -> FloatArray:
    """Return [K, 4]: 1, MACs, input bytes + 4 output elements, weight bytes; of one call for one batch."""
    macs = batch * layer.macs / max(layer.calls, 1)
    traffic = batch * (layer.in_elements * a_bits / 8 + 4 * layer.out_elements)
    return np.stack([np.ones_like(traffic), np.full_like(traffic, macs), traffic, weight_bytes], axis=1)


def launch_features(layer: Layer, batch: int) -> FloatArray:
    """Return [4]: 1, MACs, outputs, depth (products that one output sums); of one call for one batch."""
    macs, outputs = layer.macs / max(layer.calls, 1), layer.out_elements
    return np.array([1.0, batch * macs, float(batch * outputs), macs / max(outputs, 1)])


def calibrate(matrix: FloatArray, seconds: FloatArray) -> FloatArray:
    """Fit t = matrix [n, c] @ c, c >= 0, to measured `seconds` [n] by relative least squares: min sum (t / seconds - 1)^2.

    Raises:
        InputError: fewer measurements than coefficients, or a time that is not positive.
    """
    from scipy.optimize import nnls

    if len(seconds) < matrix.shape[1] or not (seconds > 0).all():
        raise InputError(
            f"{len(seconds)} times given, least {seconds.min(initial=np.inf)}; at least {matrix.shape[1]} positive ones needed."
        )
    scaled = matrix / seconds[:, None]
    unit = scaled.max(axis=0)
    scaled_fit: FloatArray = nnls(scaled / np.where(unit > 0, unit, 1.0), np.ones(len(seconds)))[0]
    return np.where(unit > 0, scaled_fit / np.where(unit > 0, unit, 1.0), 0.0)


def leave_one_out(matrix: FloatArray, seconds: FloatArray) -> FloatArray:
    """Return [n]: the time of each measurement as a fit of all the others predicts it."""
    everyone = np.arange(len(seconds))
    return np.array([matrix[i] @ calibrate(matrix[everyone != i], seconds[everyone != i]) for i in everyone])


def leave_shape_out(matrix: FloatArray, seconds: FloatArray) -> FloatArray:
    """Return [n]: the time of each measurement as a fit of those with other features predicts it; equal layers leave together."""
    alike = (matrix[:, None, :] == matrix[None, :, :]).all(axis=2)
    return np.array([row @ calibrate(matrix[~same], seconds[~same]) for row, same in zip(matrix, alike, strict=True)])


def calibrated_s(fit: Calibration, layer: Layer, batch: int, choices: LayerChoices) -> FloatArray:
    """Return [K] seconds of one call by one calibration."""
    a_bits = np.full(len(choices.policies), float(code_bits(fit.pair.split("/")[1])))
    weight_bytes = np.full(len(a_bits), layer.weights * code_bits(fit.pair.split("/")[0]) / 8)
    fitted = np.array([fit.c0_s, fit.c1_s_per_mac, fit.c2_s_per_byte, fit.c3_s_per_byte])
    launched = launch_features(layer, batch) @ np.array([0.0, 0.0, fit.c4_s_per_output, fit.c5_s_per_depth])
    seconds: FloatArray = features(layer, batch, weight_bytes, a_bits) @ fitted + launched
    return seconds


def build(device: Device) -> LayerModel:
    """Return the roofline of one layer.

    Raises:
        InputError: a legal pair has neither a peak nor a calibration, or no memory level states bytes_per_s.
    """
    peaks = {peak.pair: peak.ops_per_s for peak in device.compute_as(RooflineCompute).peak}
    speed = _bytes_per_s(device)
    launch = device.file.overhead.launch_s if device.file.overhead else 0.0
    power = device.file.energy.active_power_w if device.file.energy else None

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        pairs = [f"{w}/{a}" for w, a in zip(choices.weight, choices.activation, strict=True)]
        lacking = [pair for pair in pairs if pair not in peaks]
        if lacking:
            raise InputError(f"layer {layer.name!r}: {device.name} states no peak for {lacking[0]}; it has {listed(peaks)}.")
        rate = np.array([peaks[pair] for pair in pairs])
        compute = 2 * device.batch * layer.macs / layer.calls / rate
        memory = _traffic_bits(layer, device.batch, choices) / 8 / speed
        latency = launch + np.maximum(compute, memory)
        if device.file.calibration:
            latency = _corrected(device, layer, choices, latency)
            compute = np.minimum(compute, latency)
        energy = {"board": latency * power} if power else {}
        return LayerCost(compute, latency, memory, energy)

    return cost


def _bytes_per_s(device: Device) -> float:
    speeds = [level.bytes_per_s for level in device.file.memory if level.bytes_per_s]
    if not speeds:
        raise InputError(f"device {device.name}: a roofline needs a [[memory]] level with bytes_per_s; add one.")
    return speeds[0]


def _traffic_bits(layer: Layer, batch: int, choices: LayerChoices) -> FloatArray:
    """Return [K] STORED bits moved by one call: every input, output and weight once; an embedding reads only the rows it looks up."""
    if layer.kind == "embedding":
        looked_up = batch * layer.out_elements
        return choices.weight_bits * min(1.0, looked_up / layer.weights) + looked_up * choices.stored_w_bits
    return batch * (layer.in_elements + layer.out_elements) * choices.stored_a_bits + choices.weight_bits


def _corrected(device: Device, layer: Layer, choices: LayerChoices, datasheet: FloatArray) -> FloatArray:
    """Return [K] seconds: the datasheet's, replaced by those of measured pairs and bounded by them."""
    fits = {calibration.pair: calibrated_s(calibration, layer, device.batch, choices)[0] for calibration in device.file.calibration}
    seconds = datasheet.copy()
    for k, (weight, activation) in enumerate(zip(choices.weight, choices.activation, strict=True)):
        wider = [time for pair, time in fits.items() if _within((weight, activation), pair)]
        narrower = [time for pair, time in fits.items() if _within(pair.split("/"), f"{weight}/{activation}")]
        measured = f"{weight}/{activation}" in fits
        seconds[k] = min(wider) if measured else min([max([datasheet[k], *narrower]), *wider])
    return seconds


def _within(narrow: Sequence[str], wide: str) -> bool:
    """Tell whether both codes of `narrow` have at most the bits of those of `wide`."""
    return all(code_bits(n) <= code_bits(w) for n, w in zip(narrow, wide.split("/"), strict=True))


def measured_layers(device: Device, golden: Golden) -> GoldenComparison:
    """Check a calibration by leave-one-out on the measured layers (`given`: the column and the pair of codes).

    The figure of a layer is the prediction of a fit of all other layers. The remarks add how well layers of other shapes predict it (the
    networks repeat shapes), how well one network's fit predicts another network's sum, and how far off the datasheet alone is.

    Raises:
        InputError: the file lacks a column.
    """
    path = device.folder / golden.file
    rows = read_rows(path)
    pair = golden.metric
    column = f"{pair.split('/')[0]}_ms"
    need_columns(rows, (*_COLUMNS, column), path)
    seconds = np.array([figure(row, column, path) * 1e-3 for row in rows])
    layers = [layer_of({"kind": "conv", **row}) for row in rows]
    matrix = np.stack([launch_features(layer, int(figure(row, "batch", path))) for layer, row in zip(layers, rows, strict=True)])
    labels = tuple(f"{row['network']} {row.get('index', n)}" for n, row in enumerate(rows))
    unseen = 100 * np.abs(leave_shape_out(matrix, seconds) / seconds - 1)
    by_shape = f"every layer of the shape left out: mean error {unseen.mean():.2f} %, max {unseen.max():.1f} %"
    remarks = (by_shape, _transfer(rows, matrix, seconds), _datasheet_error(device, pair, seconds, rows, layers))
    kept = tuple(remark for remark in remarks if remark)
    return GoldenComparison(labels, seconds, leave_one_out(matrix, seconds), kept, unseen_percent=unseen)


def _transfer(rows: list[dict[str, str]], matrix: FloatArray, seconds: FloatArray) -> str:
    """Return a sentence on how well a fit of the first network predicts the total of the second; empty where there is one network."""
    network = np.array([row["network"] for row in rows])
    names = list(dict.fromkeys(network))
    if len(names) < 2:
        return ""
    first, second = network == names[0], network == names[1]
    total = matrix[second] @ calibrate(matrix[first], seconds[first])
    error = total.sum() / seconds[second].sum() - 1
    return f"fit of {names[0]} predicts the sum of {names[1]} within {100 * abs(error):.2f} %"


def _datasheet_error(device: Device, pair: str, seconds: FloatArray, rows: list[dict[str, str]], layers: list[Layer]) -> str:
    """Return a sentence on how far off the same layers are when only the datasheet is used."""
    peaks = {peak.pair: peak.ops_per_s for peak in device.compute_as(RooflineCompute).peak}
    if pair not in peaks:
        raise InputError(f"device {device.name}: a check of {pair!r}, which has no peak; metric takes one of {listed(peaks)}.")
    rate, speed = peaks[pair], _bytes_per_s(device)
    launch = device.file.overhead.launch_s if device.file.overhead else 0.0
    w_bits, a_bits = (code_bits(code) for code in pair.split("/"))
    batch = np.array([int(row["batch"]) for row in rows])
    macs, weights = (np.array([getattr(layer, name) for layer in layers]) for name in ("macs", "weights"))
    moved = batch * np.array([layer.in_elements + layer.out_elements for layer in layers]) * a_bits / 8
    times = launch + np.maximum(2 * batch * macs / rate, (moved + weights * w_bits / 8) / speed)
    error = np.abs(times / seconds - 1).mean()
    return f"UNCALIBRATED (datasheet peak and bandwidth): mean error {100 * error:.0f} %"


MODEL = Model(
    RooflineCompute,
    build,
    "t = c0 + c1 MACs + c4 outputs + c5 depth where measured",
    {"measured_layers": "hw_models.models.roofline:measured_layers"},
)
