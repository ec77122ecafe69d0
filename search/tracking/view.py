"""A chart view that everybody sees alike: the fronts of all sweeps side by side, with no click.

MLflow keeps shared views as experiment tags; their form is not documented (seen in 3.17), so nothing depends on it: where it changes,
the link opens the plain list of runs.
"""

import base64
import json
import zlib
from collections.abc import Sequence

from search.tracking import names

KEY = "bitfront"
TAG = f"mlflow.sharedViewState.{KEY}"
COSTS = ("latency_s", "energy_j", "weight_bytes")


def link(experiment_id: str, base: str = "") -> str:
    """Return the address of the view below an MLflow server's."""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={KEY}&compareRunsMode=CHART"


def state(costs: Sequence[str]) -> str:
    """Return the value of the tag: only front members, error against each cost, parallel coordinates."""
    scatter = [_scatter(cost) for cost in costs]
    parallel = {
        "type": "PARALLEL",
        "uuid": "bitfront-parallel",
        "selectedParams": ["searcher"],
        "selectedMetrics": ["bits_weight_avg", *costs, "error"],
        "showAllRuns": True,
    }
    section = {"metricSectionId": "bitfront", "deleted": False, "isGenerated": False}
    view = {
        "searchFilter": f"tags.`{names.PARETO}` = 'true'",
        "orderByKey": "metrics.`error`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [f"tags.`{names.SWEEP}`", "metrics.`accuracy`", *(f"metrics.`{cost}`" for cost in costs)],
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": [chart | section for chart in (*scatter, parallel)],
        "compareRunSections": [
            {"uuid": "bitfront", "name": "Pareto fronts", "display": True, "isReordered": False, "deleted": False, "isGenerated": False}
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()


def _scatter(cost: str) -> dict[str, object]:
    return {
        "type": "SCATTER",
        "uuid": f"bitfront-{cost}",
        "runsCountToCompare": 100,
        "xaxis": {"key": cost, "type": "METRIC"},
        "yaxis": {"key": "error", "type": "METRIC"},
    }
