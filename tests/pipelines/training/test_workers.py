"""Training spread over processes, and gone on with by another number of them."""

import contextlib
import dataclasses
import errno
import json
import subprocess
import sys

import pyarrow
import pytest
import torch
from filelock import Timeout

from pipelines.cluster.ray import Placement, ray_cluster
from pipelines.params import load_params
from pipelines.store.checkpoints import checkpoints
from pipelines.store.s3 import StorageError
from pipelines.store.shards import read_boxes, read_manifest
from pipelines.training import workers
from pipelines.training.loop import Job
from pipelines.training.messages import Log, messages
from pipelines.training.worker import Training, is_final
from pipelines.training.workers import CannotTrain, TrainingFailed, run_on_ray
from ssd.checkpoint import load
from ssd.trainer import NonFiniteLoss
from tests.conftest import ROOT, TINY, long_test, write_params
from tests.pipelines.training.processes import train_in_processes
from tests.pipelines.training.states import same


@pytest.fixture
def job(tiny_prepared, tmp_path):
    """3 epochs of 3 steps, with a state after each of them."""
    params = load_params(write_params(tmp_path / "p.yaml", {**TINY, "train.checkpoint_steps": 1}))
    return Job(params, tiny_prepared, tmp_path / "cache")


@pytest.mark.slow
def test_three_go_on_from_the_midst_of_an_epoch_as_if_they_had_never_stopped(job, tmp_path):
    """Three: the sum of two gradients does not depend on their order."""
    calm, resumed = tmp_path / "calm", tmp_path / "resumed"
    for folder in (calm, resumed):
        folder.mkdir()
    train_in_processes(3, job, calm, 0, 9)
    (calm / "4.pt").rename(resumed / "4.pt")
    train_in_processes(3, job, resumed, 4, 9)
    same(*(load(folder / "9.pt") for folder in (calm, resumed)))
    kept, *others = (torch.load(calm / f"averaged-{rank}.pt") for rank in range(3))
    for mine in others:  # all have validated the one model that is kept
        assert all(torch.equal(value, mine[name]) for name, value in kept.items())


@pytest.mark.slow
def test_another_number_of_workers_sees_each_image_once_an_epoch(job, tiny_prepared, tmp_path):
    """Steps 0 to 3 by one process, the others, from the midst of an epoch on, by two."""
    folder = tmp_path / "states"
    folder.mkdir()
    train_in_processes(1, job, folder, 0, 4)
    train_in_processes(2, job, folder, 4, 9)
    seen = [step for file in folder.glob("seen-*.json") for step in json.loads(file.read_text())]
    ids = sorted(row["image_id"] for row in read_boxes(tiny_prepared, read_manifest(tiny_prepared), "train"))
    for epoch in range(3):
        assert sorted(name for step, names in seen if step // 3 == epoch for name in names) == ids
    assert [row["epoch"] for row in load(folder / "9.pt")["history"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (NonFiniteLoss("the loss of step 3 is not finite"), True),
        (CannotTrain("worker 0: …"), True),
        (ValueError("scale_min <= scale_max is due"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (Timeout("writer.lock"), False),
        (StorageError("the store is away"), False),
        (TrainingFailed("training was lost: a worker died"), False),
        (RuntimeError("Connection closed by peer"), False),
        (pyarrow.ArrowInvalid("not a Parquet file"), False),
    ],
)
def test_only_what_the_job_itself_did_wrong_is_final(error, final):
    assert is_final(error) is final


def test_ray_still_has_the_helpers_that_are_left_out():
    """By private names of Ray's: an update that renames them would quietly bring them back."""
    ours = workers.trainer_without(workers.DATASETS, workers.CLEANER)
    (theirs,) = ours.__bases__
    callbacks = [kind(workers.work)._create_default_callbacks() for kind in (theirs, ours)]
    names = [{type(one).__name__ for one in found} for found in callbacks]
    assert names[0] - names[1] == {workers.DATASETS, workers.CLEANER}


@pytest.mark.slow
def test_training_ends_well_without_the_queue_of_its_messages(job, tmp_path, monkeypatch):
    """The queue dies at the first message: no other comes."""
    import ray

    received, senders = [], []

    @contextlib.contextmanager
    def watched(handle):
        with messages(handle) as send:
            senders.append(send)
            yield send

    def show(message):
        received.append(message)
        ray.kill(senders[0].queue.actor)

    monkeypatch.setattr(workers, "messages", watched)
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    placement = Placement(1, use_gpu=False, cpus=1, loader_workers=0, max_failures=0)
    with ray_cluster():
        run_on_ray(Training(job, tmp_path / "train-1", placement), show)
    assert 1 <= len(received) < 9
    assert checkpoints(tmp_path / "train-1").latest()[0] == 9


@pytest.mark.slow
@long_test
def test_another_cluster_on_the_machine_takes_no_worker_away(tiny_prepared, tmp_path, monkeypatch):
    """A helper of Ray Train's asked that cluster for our controller, and took the answer for a death.

    It did so where the other one came later and had a dashboard, at the port that ours would have.
    """
    params = load_params(write_params(tmp_path / "params.yaml", {**TINY, "train.epochs": 120}))
    job = Job(params, tiny_prepared, tmp_path / "cache")
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    command = "import ray; ray.init(num_cpus=1, include_dashboard=True); print('up', flush=True); input()"
    others = []

    def show(message):
        if not others:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            others.append(subprocess.Popen([sys.executable, "-c", command], text=True, **pipes))

    try:
        placement = Placement(1, use_gpu=False, cpus=1, loader_workers=0, max_failures=0)
        with ray_cluster():
            run_on_ray(Training(job, tmp_path / "train-1", placement), show)
    finally:
        said, _ = others[0].communicate("\n")
    assert said == "up\n"
    assert len(checkpoints(tmp_path / "train-1").latest()[1]["history"]) == 120


@pytest.mark.slow
@long_test
def test_a_drained_nodes_worker_saves_in_the_midst_of_an_epoch_and_others_go_on_to_the_same_bits(
    job, tmp_path, monkeypatch
):
    """Three nodes, two workers; rank 0 has its own node drained before step 5, as a cloud would that wants it back.

    All wait at that step until Ray has told them, so that nothing depends on who is faster. After the step that follows
    they save, and come no further: Ray ends them when the node's time is up, which is told only then, and starts two on
    the nodes that are left.
    """
    from ray.cluster_utils import Cluster

    params = job.params
    params = params.model_copy(update={"train": dataclasses.replace(params.train, checkpoint_steps=0)})
    job = dataclasses.replace(job, params=params)
    told = tmp_path / "told"

    def work(config):
        import time

        import ray
        import ray.train

        from pipelines.training import loop, preemption, workers

        def drain(seconds):
            here = ray.get_runtime_context()
            command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", here.gcs_address]
            command += ["--node-id", here.get_node_id(), "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
            command += ["--reason-message", "a test", "--deadline-remaining-seconds", str(seconds)]
            subprocess.run(command, check=True)

        batches = loop.Run.batches

        def watched(run):
            first = not told.exists()
            (told.parent / f"began-{2 - first}").write_text(str(run.trainer.steps))
            for batch in batches(run):
                if first and run.trainer.steps == 4:
                    if run.rank == 0:
                        drain(600)
                    while ray.train.get_preemption_info() is None:
                        time.sleep(0.1)
                    told.touch()
                elif first and run.trainer.steps == 5:
                    if run.rank == 0:
                        drain(1)
                    time.sleep(600)
                yield batch

        loop.Run.batches = watched
        preemption.ASK = preemption.SAVE = 0  # at every step
        workers.work(config)

    calm = tmp_path / "calm"
    calm.mkdir()
    train_in_processes(2, job, calm, 0, 9)
    monkeypatch.setattr(workers, "work", work)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the cluster's processes inherit it
    for name, value in (
        ("AUTH_MODE", "disabled"),
        ("TRAIN_V2_ENABLED", "1"),
        ("TRAIN_PREEMPTION_POLL_INTERVAL_S", "1"),
    ):
        monkeypatch.setenv(f"RAY_{name}", value)
    lines = []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        placement = Placement(2, use_gpu=False, cpus=1, loader_workers=0, max_failures=0)
        with ray_cluster():
            run_on_ray(Training(job, tmp_path / "train-1", placement), lines.append)
    finally:
        cluster.shutdown()
    assert [(tmp_path / f"began-{attempt}").read_text() for attempt in (1, 2)] == ["0", "5"]
    same(checkpoints(tmp_path / "train-1").latest()[1], load(calm / "9.pt"))
    assert any("is about to be taken away" in line.text for line in lines if isinstance(line, Log))


def test_rays_controller_loads_no_pytorch():
    """What it unpickles: where workers begin, and the callback. Loading PyTorch takes it seconds, before any worker."""
    code = "import sys, pipelines.training.workers, pipelines.training.mlflow_callback; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
