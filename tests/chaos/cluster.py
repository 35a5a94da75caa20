"""A Ray cluster of several nodes on this machine, in a process of its own: `python -m tests.chaos.cluster CPUS CPUS …`, the head first.

It says its address, then obeys its standard input: `kill N` ends node N (all its processes), `raylet N` its raylet alone; each is
answered with `done`. The end of the input ends the cluster.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    cpus = [int(word) for word in sys.argv[1:]]
    size = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], **size})
    nodes = [cluster.head_node, *(cluster.add_node(num_cpus=count, **size) for count in cpus[1:])]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        what, number = line.split()
        node = nodes[int(number)]
        if what == "raylet":
            node.kill_raylet(check_alive=False)
        else:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        print("done", flush=True)
    for node in nodes:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


if __name__ == "__main__":
    main()
