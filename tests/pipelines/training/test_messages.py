import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.training.messages import Log, Step, messages

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_messages_wait_on_the_drivers_node_and_all_arrive():
    """In a process of its own: whether Ray asks for tokens is decided once a process, and `Cluster` has none."""
    environment = dict(os.environ) | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"from {__name__} import on_three_nodes; on_three_nodes()"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def on_three_nodes():
    """The driver's node has the fewest CPUs: without being told, Ray would place the queue elsewhere."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(cluster.address, logging_level="ERROR")
    here = ray.get_runtime_context().get_node_id()
    nodes, received = [], []
    for count in range(4):
        with messages(received.append) as send:
            for number in range(50 * count):
                send(Step(1, number, 50, 2.5))
            send(Log("the end"))
            node = send.queue.actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
            nodes.append(ray.get(node))
    assert set(nodes) == {here}
    assert len(received) == 50 * 6 + 4
    assert received[-1] == Log("the end")
    ray.shutdown()
    cluster.shutdown()
