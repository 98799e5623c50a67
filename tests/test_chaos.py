"""The short form of `make chaos`: one round, in which every kind of process is killed once."""

import tempfile
from pathlib import Path

import pytest

from infra.local.ceph import missing
from tests.chaos import EPOCHS, STEPS, VICTIMS, chaos, plans


def test_plans_are_seeded_and_spare_nobody():
    assert list(plans(20, 1)) == list(plans(20, 1)) != list(plans(20, 2))
    killed = [victim for plan in plans(20, 0) for _, victim in plan]
    assert max(map(killed.count, VICTIMS)) - min(map(killed.count, VICTIMS)) <= 1
    assert all(0 < step < EPOCHS * STEPS for plan in plans(20, 0) for step, _ in plan)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_round_of_chaos():
    if lacking := missing():
        pytest.skip(f"no S3 server: {', '.join(lacking)} not installed (apt-get install radosgw ceph-mon ceph-osd)")
    steps = (3, 6, 11, 16, 21, 26, 31, 36)
    plan = list(zip(steps, ("mlflow", "ctrl-C", "worker", "s3", "node", "helpers", "driver", "client"), strict=True))
    assert {victim for _, victim in plan} == set(VICTIMS)
    with tempfile.TemporaryDirectory(prefix="ssd-chaos-", ignore_cleanup_errors=True) as folder:  # short: sockets
        chaos(Path(folder), [plan], seed=0)
