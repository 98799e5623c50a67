"""The short form of `make chaos`: two rounds, in which every kind of process is killed once."""

import tempfile
from pathlib import Path

import pytest

from infra.local.ceph import missing
from tests.chaos import EPOCHS, STEPS, VICTIMS, chaos, plans
from tests.conftest import long_test


def test_plans_are_seeded_and_spare_nobody():
    assert list(plans(20, 1)) == list(plans(20, 1)) != list(plans(20, 2))
    killed = [victim for plan in plans(20, 0) for _, victim in plan]
    assert max(map(killed.count, VICTIMS)) - min(map(killed.count, VICTIMS)) <= 1
    assert all(0 < step < EPOCHS * STEPS for plan in plans(20, 0) for step, _ in plan)


@pytest.mark.slow
@long_test
@pytest.mark.timeout(900)
def test_two_rounds_of_chaos(tmp_path_factory):
    if lacking := missing():
        pytest.skip(f"no S3 server: {', '.join(lacking)} not installed (apt-get install radosgw ceph-mon ceph-osd)")
    planned = [
        [(6, "worker"), (15, "s3"), (27, "client")],
        [(6, "mlflow"), (12, "node"), (21, "ctrl-C"), (30, "driver")],
    ]
    assert {victim for plan in planned for _, victim in plan} == set(VICTIMS)
    with tempfile.TemporaryDirectory(prefix="ssd-chaos-", ignore_cleanup_errors=True) as folder:  # short: sockets
        chaos(Path(folder), planned, seed=0)
