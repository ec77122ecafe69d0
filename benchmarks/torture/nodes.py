"""Ray nodes of one CPU each, in a process of its own: `python -m benchmarks.torture.nodes`.

Prints the address. A line on standard input ends the node that is not the head, at once, and adds another one; its end ends all.
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    """Serve."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    other = cluster.add_node(**NODE)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(other, allow_graceful=False)
        other = cluster.add_node(**NODE)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
