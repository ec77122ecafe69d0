"""Rates of a microcontroller's engine, fitted to the measured latencies of whole networks.

    t = c_mac MACs + c_dw depthwise MACs + c_out outputs + c_weight weight bytes,   c >= 0, relative least squares

summed over the layers of a network. A kernel's inner loop takes time per multiply-accumulate, with its ends and the requantization
per output, and a byte of weights is fetched from flash once per use: so a pointwise layer of few channels, a depthwise and a linear
layer run at lower rates than a convolution of the same MACs. A series is the networks that one board, engine and round measured. A
series of too few networks takes the ratios of the rates from other series of the same engine, each with a speed of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw_models.models import FloatArray
from hw_models.models.roofline import calibrate
from hw_models.schema.device_file import SourceIds, Table
from hw_models.shapes import figure, need_columns, read_rows
from quant_core.spec.layer import KINDS, Layer
from quant_core.util.errors import InputError

RATES = ("seconds per MAC", "seconds per depthwise MAC", "seconds per output", "seconds per weight byte")
_LAYERS = ("network", "kind", "in_channels", "out_channels", "kernel", "stride", "in_size", "out_size")
_STEPS, _CLOSE = 500, 1e-13


class McuFit(Table):
    """What the rates are fitted to.

    Attributes:
        layers, latencies: CSV files beside the device file.
        series: the device's own rows of `latencies`.
        ratios_from: series that the ratios of the rates are fitted to; empty: the device's own.
        separate_depthwise: depthwise MACs have a rate of their own; otherwise they differ by their outputs per MAC alone.
    """

    layers: str
    latencies: str
    series: str
    ratios_from: tuple[str, ...] = ()
    separate_depthwise: bool = True
    source: SourceIds


@dataclass(frozen=True, eq=False)
class Network:
    """A measured network: its series and name, its features [4] as `RATES` orders them, its latency, and whether all of it ran."""

    series: str
    name: str
    features: FloatArray
    seconds: float
    whole: bool = True


def features(layer: Layer, weight_bits: int = 8) -> FloatArray:
    """Return [4]: MACs but depthwise ones, depthwise MACs, outputs, weight bytes; of one call for one example."""
    macs = layer.macs / max(layer.calls, 1)
    depthwise = layer.kind == "depthwise"
    return np.array([0.0 if depthwise else macs, macs if depthwise else 0.0, layer.out_elements, layer.weights * weight_bits / 8])


def read_networks(path: Path) -> dict[str, tuple[Layer, ...]]:
    """Return the layers of every network of a CSV file; sizes that are not square are written `10x4`.

    Raises:
        InputError: the file is missing, lacks columns, or holds a row that is no layer.
    """
    rows = read_rows(path)
    need_columns(rows, _LAYERS, path)
    networks: dict[str, tuple[Layer, ...]] = {}
    for number, row in enumerate(rows, 1):
        before = networks.get(row["network"], ())
        try:
            networks[row["network"]] = (*before, _layer(row, f"{row['network']}.{len(before)}"))
        except ValueError as error:
            raise InputError(f"{path}: row {number}: {error}.") from None
    return networks


def _layer(row: dict[str, str], name: str) -> Layer:
    if row["kind"] not in KINDS:
        raise ValueError(f"kind {row['kind']!r}; legal: {', '.join(KINDS)}")
    ci, co = int(row["in_channels"]), int(row["out_channels"])
    if row["kind"] == "linear":
        return Layer(name, "linear", ci, co, (co, ci), (1,), (1,), ci * co)
    kernel, stride, in_size, out_size = (_plane(row[key]) for key in ("kernel", "stride", "in_size", "out_size"))
    groups = ci if row["kind"] == "depthwise" else 1
    shape = (co, ci // groups, *kernel)
    macs = int(np.prod(shape)) * int(np.prod(out_size))
    return Layer(name, row["kind"], ci, co, shape, in_size, out_size, macs, kernel, stride, (1, 1), groups)


def _plane(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def measured(fit: McuFit, folder: Path) -> tuple[Network, ...]:
    """Return the networks of the fit's own series and of those that give the ratios.

    Raises:
        InputError: a file is missing or wrong, or a series has no row.
    """
    networks, path = read_networks(folder / fit.layers), folder / fit.latencies
    rows = read_rows(path)
    need_columns(rows, ("series", "network", "milliseconds", "whole"), path)
    wanted = (fit.series, *fit.ratios_from)
    lacking = [series for series in wanted if not any(row["series"] == series for row in rows)]
    unknown = [row["network"] for row in rows if row["network"] not in networks]
    if lacking or unknown:
        raise InputError(f"{path}: no row of series {', '.join(lacking) or '-'}; layers not known of {', '.join(unknown) or '-'}.")
    return tuple(
        Network(
            row["series"],
            row["network"],
            np.sum([features(layer) for layer in networks[row["network"]]], axis=0),
            figure(row, "milliseconds", path) * 1e-3,
            row["whole"] != "0",
        )
        for row in rows
        if row["series"] in wanted
    )


def fit_rates(fit: McuFit, networks: Sequence[Network]) -> FloatArray:
    """Return the rates [4] of the fit's own series, as `RATES` orders them. Networks of which not all ran are left out.

    Raises:
        InputError: fewer networks than rates.
    """
    whole = [network for network in networks if network.whole]
    series = [network for network in whole if network.series == fit.series]
    if not fit.ratios_from:
        return _spread(fit, calibrate(_matrix(fit, series), _seconds(series)))
    shape = _shape(fit, [network for network in whole if network.series in fit.ratios_from])
    return _spread(fit, shape * _speed(_matrix(fit, series) @ shape, _seconds(series)))


def _shape(fit: McuFit, networks: list[Network]) -> FloatArray:
    """Return the common rates of several series, each of which has a speed of its own, by alternating least squares."""
    matrix, seconds = _matrix(fit, networks), _seconds(networks)
    members = [np.array([network.series == series for network in networks]) for series in fit.ratios_from]
    members = [member for member in members if member.any()]
    slowness = np.ones(len(networks))
    for _ in range(_STEPS):
        rates = calibrate(matrix * slowness[:, None], seconds)
        before = slowness.copy()
        for member in members:
            slowness[member] = _speed(matrix[member] @ rates, seconds[member])
        slowness /= slowness[0]
        if np.abs(slowness / before - 1).max() < _CLOSE:
            break
    return rates


def _speed(predicted: FloatArray, seconds: FloatArray) -> float:
    """Return the factor by which `predicted` fits `seconds` best, in relative least squares."""
    ratio = predicted / seconds
    return float(ratio.sum() / (ratio @ ratio))


def _matrix(fit: McuFit, networks: Sequence[Network]) -> FloatArray:
    matrix = np.stack([network.features for network in networks])
    return matrix if fit.separate_depthwise else np.column_stack([matrix[:, 0] + matrix[:, 1], matrix[:, 2:]])


def _spread(fit: McuFit, rates: FloatArray) -> FloatArray:
    """Return the four rates of those that were fitted."""
    return rates if fit.separate_depthwise else rates[[0, 0, 1, 2]]


def _seconds(networks: Sequence[Network]) -> FloatArray:
    return np.array([network.seconds for network in networks])


def leave_one_out(fit: McuFit, networks: Sequence[Network], by_network: bool) -> FloatArray:
    """Return [n] relative errors, in percent, of the own series' whole networks, each predicted by a fit that did not see it.

    Args:
        fit: what the rates are fitted to.
        networks: as `measured` returns them.
        by_network: leave the network out of every series, as if no board had run it; otherwise only the one measurement.
    """
    series = [network for network in networks if network.series == fit.series and network.whole]
    errors = []
    for left_out in series:
        others = [network for network in networks if network is not left_out and not (by_network and network.name == left_out.name)]
        errors.append(100 * abs(float(left_out.features @ fit_rates(fit, others)) / left_out.seconds - 1))
    return np.array(errors)
