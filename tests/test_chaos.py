"""The short form of `make chaos`: a round in which four kinds of process are killed, or cables pulled, each once."""

import tempfile
from pathlib import Path

import pytest

from infra.local import network
from infra.local.ceph import missing
from pipelines.training.loop import Job
from ssd.checkpoint import load
from tests.chaos import CABLES, EPOCHS, STEPS, VICTIMS, chaos, outcome, plans, prepare_data
from tests.conftest import long_test
from tests.pipelines.training.processes import train_in_processes


def test_plans_are_seeded_and_spare_nobody():
    assert list(plans(20, 1)) == list(plans(20, 1)) != list(plans(20, 2))
    killed = [victim for plan in plans(20, 0) for _, victim in plan]
    assert max(map(killed.count, VICTIMS)) - min(map(killed.count, VICTIMS)) <= 1
    assert all(0 < step < EPOCHS * STEPS for plan in plans(20, 0) for step, _ in plan)
    assert sorted(HALVES[0] + HALVES[1]) == sorted(VICTIMS)


HALVES = ("mlflow", "s3", "node", "driver"), ("client", "worker", "ctrl-C", "helpers")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "victims",
    [
        HALVES[0],
        pytest.param(HALVES[1], marks=long_test),
        pytest.param(tuple(CABLES), marks=long_test, id="cables"),
    ],
)
def test_a_round_of_chaos(victims):
    if lacking := missing():
        pytest.skip(f"no S3 server: {', '.join(lacking)} not installed (apt-get install radosgw ceph-mon ceph-osd)")
    apart = victims == tuple(CABLES)
    if apart and (reason := network.missing()):
        pytest.skip(reason)
    plan = list(zip((3, 9, 18, 27), victims))
    with tempfile.TemporaryDirectory(prefix="ssd-chaos-", ignore_cleanup_errors=True) as name:  # short: sockets
        folder, last = Path(name), EPOCHS * STEPS
        params = prepare_data(folder / "data")
        (folder / "calm").mkdir()
        train_in_processes(2, Job(params, folder / "data/prepared", folder / "cache"), folder / "calm", 0, last)
        chaos(folder, [plan], seed=0, calm=outcome(load(folder / f"calm/{last}.pt")), apart=apart)
