"""Golden checks of Bit Fusion: published schedules row by row, each on its own array, and totals of whole networks."""

import numpy as np

from hw_models.device import Device
from hw_models.models import GoldenComparison, compare_points
from hw_models.models.bitfusion.machine import Array, LayerWorkload
from hw_models.models.bitfusion.model import array_of
from hw_models.models.bitfusion.search import FIELDS, schedule
from hw_models.schema.codes import spec_of
from hw_models.schema.device_file import Golden
from hw_models.shapes import layer_of, need_columns, need_whole, read_rows
from hw_models.table import cost_policy
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError

_WORK = ("kernel", "out_size", "stride", "in_channels", "out_channels", "a_bits", "w_bits", "batch")
_ARRAY = ("array_rows", "array_cols", "dram_bits_per_cycle", "act_sram_bytes", "weight_sram_bytes", "out_sram_bytes")
Row = dict[str, str]


def rows_of_schedules(device: Device, golden: Golden) -> GoldenComparison:
    """Recompute every row of a file: a row brings its own array, buffers and bandwidth, and is exact in cycles AND stall cycles.

    The core energy, which only breaks ties, grows with the number of fusion units.

    Raises:
        InputError: the file lacks columns, or a figure of a row is no whole number.
    """
    array, rows = array_of(device), _read(device, golden)
    computed = np.array([_schedule(array, row) for row in rows])
    stated = [name for name in FIELDS if name in rows[0]]
    columns = [FIELDS.index(name) for name in stated]
    expected = np.array([[int(row[name]) for name in stated] for row in rows])
    same = expected == computed[:, columns]
    others = ", ".join(f"{name} {n}" for name, n in zip(stated[2:], same[:, 2:].sum(axis=0), strict=True))
    remark = f"stall_cycles exact in {same[:, 1].sum()} of {len(rows)} rows" + (f"; {others}" if others else "")
    labels = tuple(_label(row, stall) for row, stall in zip(rows, computed[:, 1], strict=True))
    cycles = expected[:, 0].astype(np.float64), computed[:, 0].astype(np.float64)
    return GoldenComparison(labels, *cycles, (remark,), same[:, :2].all(axis=1))


def _read(device: Device, golden: Golden) -> list[Row]:
    path = device.folder / golden.file
    rows = read_rows(path)
    need_columns(rows, ("network", "layer", *_WORK, "im2col", *_ARRAY, *FIELDS[:2]), path)
    need_whole(rows, (*_WORK, *_ARRAY), path)
    need_whole(rows, ("im2col", *(name for name in FIELDS if name in rows[0])), path, least=0)
    return rows


def _label(row: Row, stall: int) -> str:
    array = f"{row['array_rows']}x{row['array_cols']}, {row['dram_bits_per_cycle']} bits/cycle"
    return f"{row['network']} {row['layer']} ({array}; stalls expected {row['stall_cycles']}, model {stall})"


def _schedule(array: Array, row: Row) -> tuple[int, ...]:
    """Return the `FIELDS` of one row."""
    rows, cols, bandwidth, act, weight, out = (int(row[name]) for name in _ARRAY)
    core = array.core_pj * rows * cols / (array.rows * array.cols)
    machine = Array(rows, cols, bandwidth, act, weight, out, core, array.act_pj, array.weight_pj, array.out_pj, array.dram_pj)
    kernel, size, stride, ci, co, a, w, batch = (int(row[name]) for name in _WORK)
    workload = LayerWorkload(batch, size, size, ci, co, (kernel, kernel), (stride, stride), im2col=row["im2col"] != "0")
    try:
        return schedule(machine, workload, a, w)
    except InputError as error:
        raise InputError(f"{row['network']} {row['layer']}: {error}") from None


def network_totals(device: Device, golden: Golden) -> GoldenComparison:
    """Compare whole networks, costed as a user's own would be; a point is named by its network.

    The layers are the rows of the file that are for the device's own array. `metric` is `latency_s` (figures in cycles per batch) or
    `energy_j` (figures in mJ per example).

    Raises:
        InputError: the file has no layer of a network for this array.
    """
    array = array_of(device)
    sizes = (array.rows, array.cols, array.dram_bits_per_cycle, array.act_bytes, array.weight_bytes, array.out_bytes)
    key = [*map(str, sizes), str(device.batch)]
    rows = [row for row in _read(device, golden) if [row[name] for name in (*_ARRAY, "batch")] == key]
    scale = device.clock_hz if golden.metric == "latency_s" else 1e3 / device.batch
    predicted = []
    for point in golden.points:
        network = [row for row in rows if row["network"] == point.name]
        if not network:
            raise InputError(f"{golden.file}: no layer of {point.name!r} for the array of {device.name}.")
        policy = {row["layer"]: _policy(row) for row in network}
        predicted.append(cost_policy(device, [_layer(row) for row in network], policy)[golden.metric] * scale)
    return compare_points(golden, predicted)


def _policy(row: Row) -> LayerPolicy:
    return LayerPolicy(spec_of(f"int{row['w_bits']}"), spec_of(f"int{row['a_bits']}"))


def _layer(row: Row) -> Layer:
    kind = "linear" if row["kernel"] == row["out_size"] == "1" else "conv"
    in_size = int(row["out_size"]) * int(row["stride"])
    return layer_of({**row, "kind": kind, "in_size": str(in_size)})
