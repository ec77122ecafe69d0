"""Two views that everybody sees alike, with no click: the list of sweeps, and the fronts of all sweeps side by side.

MLflow keeps shared views as experiment tags; their form is not documented (seen in 3.17), so nothing depends on it: where it changes,
the link opens the plain list of runs.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from search.records.summary import readable
from search.tracking import names

KEY = "bitfront"
TAG = f"mlflow.sharedViewState.{KEY}"
SWEEPS_KEY = "bitfront-sweeps"
SWEEPS_TAG = f"mlflow.sharedViewState.{SWEEPS_KEY}"
COSTS = ("latency_s", "energy_j", "weight_bytes")
SHOWN = ("task", "device", "searcher")
"""Parameters of a sweep that the list of sweeps shows."""
LISTED = (
    "best_valid_percent",
    "best_test_percent",
    "best_size_KiB",
    "float_valid_percent",
    "float_test_percent",
    "uniform_valid_percent",
    "uniform_size_KiB",
    "suggested_test_percent",
    "suggested_size_KiB",
    "best_latency_ms",
    "hypervolume",
    "trials",
)
"""Metrics of a sweep that the list of sweeps shows, see `search.records.summary.headline`."""
_ERROR = "error_percent"


def link(experiment_id: str, base: str = "") -> str:
    """Return the address of the fronts' view below an MLflow server's; the layout is that for machine learning, not for chats."""
    return _address(experiment_id, base, KEY, "CHART")


def sweeps_link(experiment_id: str, base: str = "") -> str:
    """Return the address of the list of sweeps below an MLflow server's."""
    return _address(experiment_id, base, SWEEPS_KEY, "TABLE")


def _address(experiment_id: str, base: str, key: str, mode: str) -> str:
    query = f"workflowType=machine_learning&viewStateShareKey={key}" + (f"&compareRunsMode={mode}" if mode == "CHART" else "")
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def state(costs: Sequence[str]) -> str:
    """Return the value of the fronts' tag: front members and uniform policies, error against each cost, parallel coordinates."""
    shown = [next(iter(readable({cost: 0.0}))) for cost in costs]
    parallel = {
        "type": "PARALLEL",
        "uuid": "bitfront-parallel",
        "selectedParams": ["sweep"],
        "selectedMetrics": ["bits_weight_avg", *shown, _ERROR],
        "showAllRuns": True,
    }
    section = {"metricSectionId": "bitfront", "deleted": False, "isGenerated": False}
    return _packed(
        {
            "searchFilter": f"tags.`{names.CHARTED}` = 'true'",
            "orderByKey": f"metrics.`{_ERROR}`",
            "orderByAsc": True,
            "selectedColumns": [
                f"tags.`{names.SWEEP}`",
                "metrics.`accuracy_percent`",
                "metrics.`accuracy_test`",
                *(f"metrics.`{metric}`" for metric in shown),
            ],
            "compareRunCharts": [chart | section for chart in (*(_scatter(cost) for cost in shown), parallel)],
            "compareRunSections": [
                {
                    "uuid": "bitfront",
                    "name": "Pareto fronts",
                    "display": True,
                    "isReordered": False,
                    "deleted": False,
                    "isGenerated": False,
                    "columns": 2,
                    "cardHeight": 480,
                }
            ],
        }
    )


def sweeps_state() -> str:
    """Return the value of the tag of the list of sweeps: parents and comparisons, newest first, with the figures that tell them apart."""
    columns = [
        *(f"params.`{name}`" for name in SHOWN),
        *(f"metrics.`{name}`" for name in LISTED),
        f"tags.`{names.SUGGESTED}`",
        f"tags.`{names.STATUS}`",
    ]
    return _packed(
        {
            "searchFilter": f"tags.`{names.KIND}` != 'trial'",
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "selectedColumns": columns,
            "columnOrder": columns,
            "columnWidths": {column: _width(column) for column in columns},
            "compareRunCharts": [],
            "compareRunSections": [],
        }
    )


def _width(column: str) -> int:
    """Return the pixels of a column that shows the whole of its title; what a sweep is about has words as long as a device's name."""
    return max(140 if column.startswith("params.") else 100, 40 + 7 * len(column.partition("`")[2]))


def _packed(view: Mapping[str, object]) -> str:
    """Return a view, with what all views have, as MLflow keeps it in a tag."""
    whole = {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        **view,
    }
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(whole).encode())).decode()


def _scatter(metric: str) -> dict[str, object]:
    return {
        "type": "SCATTER",
        "uuid": f"bitfront-{metric}",
        "runsCountToCompare": 300,
        "xaxis": {"key": metric, "type": "METRIC"},
        "yaxis": {"key": _ERROR, "type": "METRIC"},
    }
