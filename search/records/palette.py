"""The colours of sweeps and marks, alike in MLflow, on pages and in pictures."""

PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
FRONT, KNEE = PALETTE[:2]
OTHERS, BASELINES, LIMIT = "#b8bcc4", "#8a8f99", "#222222"
