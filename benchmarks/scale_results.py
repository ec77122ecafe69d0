"""The page of `benchmarks.scale`: its notes and its rows, of which every one is kept in a file of its own."""

UNITS = {"_s": (1.0, " s"), "_bytes": (1e-9, " GB"), "_share": (100.0, " %")}
Figures = dict[str, float]
HEAD = "| network | what | measured | limit | kept |", "|---|---|---|---|---|"
NOTES = """Run one row with `python -m benchmarks.scale --only llama-25`; `--write docs/scale.md` writes this page from the rows kept in
`benchmarks/results/scale`, each measured by itself (CPU seconds of one thread, of a shared machine: compare them within a row).

- **forward** is one pass of the float network over the validation split in the same process. **first** is everything from the float network
  to the first outputs of the first quantized one: tracing, both calibration passes, quantizing, the pass itself. **allowed** is its limit.
- **load** is paid once in a process, whatever the network: numba's typing rules and its cached loops. It is not part of **first**.
- **second passes** is the next policy, in which a tenth of the layers changed, applied and run, in forward passes. Which layers are changed
  is fixed: of the smallest network they hold up to 18 % of the weights; the median of three.
- A search over the clipping range tries about 90 scales per row of a 4-bit weight and 210 of an 8-bit one. Every attempt is a sum over the
  row in vector registers (`quant_core/clipping/lanes.py`), so 8-bit weights of short rows cost most.
- Peaks are the largest resident size of the process that measures; a graph over 256 MB of float weights is run in processes of its own.
- A batch whose activations exceed 48 MiB at their largest moment (measured on one example) runs in parts, where the network gives the same
  for parts of four examples as for the four. Calibration gathers the batch's own statistics of the parts: ranges and counts are the
  batch's, sums are rounded in another order. Inputs quantized by a range of their batch keep it whole.
- The command line and Ray's workers keep up to 256 MiB of freed pages. More goes back to the system, so rarely that taking it again costs
  2 % of the time.
- **hypervolume** is of error and weight bytes; the reference is 1 and 1.05 times the dearest, as in the first version. The objectives and
  device of the 0.3348 that was asked for on the trained network were not found, so that no figure can be compared with it.
- Rows that are not in the table were not measured with this version: run them by name."""


def shown(figures: Figures) -> str:
    """Return figures as text, in units that people read."""
    parts = []
    for name, value in figures.items():
        suffix = next((end for end in UNITS if name.endswith(end)), "")
        scale, unit = UNITS.get(suffix, (1.0, ""))
        parts.append(f"{name.removesuffix(suffix).replace('_', ' ')} {value * scale:.4g}{unit}")
    return ", ".join(parts)


def page(lines: list[str]) -> str:
    """Return the page of the table's rows."""
    return "\n".join(["# Real size", "", NOTES, "", *HEAD, *lines, ""])
