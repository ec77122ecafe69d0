"""Ray nodes of one CPU each, in a process of its own: `python -m benchmarks.torture.nodes`.

Prints the address. A line on standard input ends the node that is not the head, at once, and adds another one; its end ends all.
"""

import sys
from typing import Any

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
TRIES = 20  # Ray gives a node half a minute to start, which a busy machine takes


def main() -> None:
    """Serve."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    other = _added(cluster)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(other, allow_graceful=False)
        other = _added(cluster)
        print("killed", flush=True)
    cluster.shutdown()


def _added(cluster: Cluster) -> Any:
    for left in reversed(range(TRIES)):
        try:
            return cluster.add_node(**NODE)
        except Exception:
            if not left:
                raise
    return None


if __name__ == "__main__":
    main()
