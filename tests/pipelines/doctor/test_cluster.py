"""Ray as the doctor finds it: nodes of a table, addresses that are wrong, and a real cluster of two nodes."""

import subprocess
import sys

import pytest

from pipelines.doctor import cluster, probes
from pipelines.doctor.cluster import ended
from pipelines.doctor.nodes import compare, here, of_a_node
from pipelines.settings import home
from tests.pipelines.doctor.projects import wrong
from tests.pipelines.doctor.servers import nobody

GIB = 1 << 30
OURS = here()
GOOD = OURS._replace(shared_memory=8 * GIB, disk=90 * GIB)


def one(**changes):
    return GOOD._replace(**changes)


@pytest.mark.parametrize(
    ("facts", "gpus", "state", "says"),
    [
        (one(packages={**OURS.packages, "ray": "2.40.0"}), 0, "error", r"other versions: ray 2.40.0 (here 2."),
        (one(packages={**OURS.packages, "torch": "2.15.0+cpu"}), 0, "error", "torch 2.15.0+cpu (here"),
        (one(python="3.12.1"), 0, "error", "Python 3.12.1 (here 3."),
        (one(gpus=0), 1, "error", "Ray counts 1 GPU and gave one to a task, PyTorch sees none in it; see nvidia-smi"),
        (
            one(gpus=1, gpu_problem="CUDA error: no kernel image"),
            1,
            "error",
            "cannot compute on the GPU: CUDA error: no",
        ),
        (one(sees_home=False), 0, "error", "and STORAGE_URI is not set; set STORAGE_URI=s3://bucket/prefix"),
        (one(shared_memory=64 << 20), 0, "warning", "only 64 MiB of /dev/shm free; docker run --shm-size=8g"),
        (one(disk=100 << 20), 0, "error", "only 100 MiB free in SSD_HOME"),
        (one(time=OURS.time - 3600), 0, "warning", "its clock is 3600 s off"),
        (one(trouble={"MLflow": "http://localhost:5000: does not answer"}), 0, "error", "does not reach MLflow"),
        (one(trouble={"S3": "no keys"}), 0, "error", "does not reach S3: no keys; give an address that the nodes know"),
        ("ModuleNotFoundError: No module named 'torch'", 0, "error", "No module named 'torch'; see `ray status`"),
        (None, 0, "warning", "b: no answer within 60 s: busy, or lost; see `ray status`"),
    ],
)
def test_one_node_of_two_is_wrong(facts, gpus, state, says):
    found = list(compare({"a": GOOD, "b": facts}, OURS, {"a": 0, "b": gpus}))
    assert wrong(found) == [("nodes", state)]
    assert found[0].message.startswith("b: ")
    assert says in str(found[0])


def test_what_all_nodes_have_is_said_once(monkeypatch):
    said = {f"node {number}": one(sees_home=False, disk=1) for number in range(5)}
    found = list(compare(said, OURS, {}))
    assert [finding.message.partition(":")[0] for finding in found] == ["node 0, node 1, node 2 and 2 more"] * 2
    monkeypatch.setenv("STORAGE_URI", "s3://bucket/a")  # then nodes need not share a disk
    assert len(list(compare(said, OURS, {}))) == 1
    (finding,) = compare({"a": GOOD, "b": GOOD}, OURS, {})
    assert finding.state == "ok"
    (finding,) = compare({"a": one(gpus=1)}, OURS, {"a": 8})  # a task is shown one of them
    assert finding.state == "ok"
    assert not list(of_a_node("a", GOOD, OURS, 0))


@pytest.mark.parametrize("address", ["a free port", "no.such.host.invalid:6379", "only-a-name"])
def test_nobody_listens_there(monkeypatch, address):
    address = nobody().removeprefix("http://") if address == "a free port" else address
    monkeypatch.setenv("RAY_ADDRESS", address)
    (finding,) = cluster.check()  # Ray itself would try for a minute
    assert finding.state == "error"
    assert str(finding).startswith(f"Ray: RAY_ADDRESS={address}: cannot connect: ")


def test_too_many_workers(monkeypatch):
    monkeypatch.setenv("SSD_WORKERS", "4")
    finding = cluster.placement({"CPU": 2})
    assert finding.state == "error"
    assert "4 workers with 1 CPUs each, but the cluster has 2 CPUs: lower SSD_WORKERS" in str(finding)
    monkeypatch.setenv("SSD_USE_GPU", "1")
    assert "SSD_WORKERS=4 with a GPU each, but the cluster has 0" in str(cluster.placement({"CPU": 8}))
    monkeypatch.setenv("SSD_USE_GPU", "0")
    assert cluster.placement({"CPU": 8}).message == "4 with 2 CPUs each"


def test_a_process_that_never_ends_is_ended():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert not ended(process, 0.1)
    assert process.returncode < 0
    assert ended(subprocess.Popen([sys.executable, "-c", ""]), 60)


def test_the_sum_of_one_node_is_its_own():
    assert probes.add_up("gloo", f"127.0.0.1:{probes.free_port()}", 0, 1, 30) == 0.0


@pytest.mark.slow
def test_the_cluster_of_a_stage_starts_and_leaves_nothing():
    found = cluster.check()
    assert wrong(found) == []
    assert [finding.check for finding in found] == ["Ray", "workers", "nodes"]
    assert [path.name for path in home().iterdir()] == []


@pytest.fixture
def two_nodes(monkeypatch):
    """A real cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
def test_two_nodes_add_up(two_nodes, monkeypatch):
    found = cluster.check()
    assert wrong(found) == [], found
    assert [finding.check for finding in found] == ["Ray", "workers", "nodes", "network"]
    assert "gloo between 2 nodes: added up in" in found[-1].message
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody())
    monkeypatch.setenv("SSD_WORKERS", "999")
    found = cluster.check()
    assert wrong(found) == [("workers", "error"), ("nodes", "error")]
    assert "does not reach MLflow: MLFLOW_TRACKING_URI=http://127.0.0.1" in found[2].message
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("SSD_WORKERS")
    two_nodes.add_node(num_cpus=1, num_gpus=1)  # which is not there
    found = cluster.check()
    assert wrong(found) == [("nodes", "error")]
    assert "Ray counts 1 GPU and gave one to a task, PyTorch sees none in it" in found[2].message
    assert "gloo between 3 nodes: added up in" in found[-1].message
