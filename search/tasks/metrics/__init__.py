"""The metrics that a task may be judged by, each a figure of a whole set. Free of torch."""

from collections.abc import Mapping

METRICS: Mapping[str, str] = {
    "accuracy": "search.tasks.metrics.classes:accuracy",
    "perplexity": "search.tasks.metrics.classes:perplexity",
    "f1": "search.tasks.metrics.classes:f1",
    "iou": "search.tasks.metrics.classes:iou",
    "kld": "search.tasks.metrics.floats:kld",
    "flips": "search.tasks.metrics.floats:flips",
    "mae": "search.tasks.metrics.values:mae",
    "psnr": "search.tasks.metrics.values:psnr",
    "pearson": "search.tasks.metrics.values:pearson",
    "spearman": "search.tasks.metrics.values:spearman",
    "map": "search.tasks.metrics.detection:mean_average_precision",
}
"""Name -> factory of the metric; `name:option` passes the option, as in "psnr:255"."""
