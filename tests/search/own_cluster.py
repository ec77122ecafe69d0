"""A Ray cluster of several nodes on this machine, in a process of its own: `python own_cluster.py NODES` (one CPU each, head included).

Prints its address and the log of its GCS. A line "kill" on standard input ends one node that is not the head at once, "add" starts
one; the end of standard input ends all.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.update(
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_health_check_period_ms="1000",
    RAY_health_check_timeout_ms="10000",
)

from ray.cluster_utils import Cluster

STORE = 80 * 2**20


def serve(nodes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bf-nodes-", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        (Path(folder) / "ray").mkdir()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False})
        others = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(nodes - 1)]
        print(cluster.address, f"{folder}/ray/session_latest/logs/gcs_server.out", flush=True)  # noqa: T201
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(others.pop(), allow_graceful=False)
                print("killed", flush=True)  # noqa: T201
            if line.strip() == "add":
                others.append(cluster.add_node(num_cpus=1, object_store_memory=STORE))
                print("added", flush=True)  # noqa: T201
        cluster.shutdown()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
