import contextlib

import pytest

from pipelines.cluster.ray import NODE_CPUS, _init, place_workers, trials_at_once
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("resources", "variables", "expected"),
    [
        ({"CPU": 2}, {}, (1, False, 2, 0)),
        ({"CPU": 8}, {"SSD_WORKERS": "4"}, (4, False, 2, 0)),
        ({"CPU": 32, "GPU": 4}, {}, (4, True, 8, 8)),
        ({"CPU": 4, NODE_CPUS: 2}, {}, (1, False, 2, 0)),  # two nodes: a worker with 4 CPUs would wait for ever
        ({"CPU": 32, "GPU": 4}, {"SSD_USE_GPU": "0", "SSD_WORKERS": "2"}, (2, False, 16, 0)),
        ({"CPU": 8}, {"SSD_WORKERS": "2", "SSD_CPUS_PER_WORKER": "1", "SSD_LOADER_WORKERS": "3"}, (2, False, 1, 3)),
    ],
)
def test_defaults_and_wishes(monkeypatch, resources, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    placement = place_workers(resources)
    assert (placement.count, placement.use_gpu, placement.cpus, placement.loader_workers) == expected


def test_as_many_workers_as_there_are_between_two_numbers(monkeypatch):
    monkeypatch.setenv("SSD_WORKERS", "2-8")
    monkeypatch.setenv("SSD_CPUS_PER_WORKER", "1")
    placement = place_workers({"CPU": 4})
    assert (placement.least, placement.count, placement.cpus) == (2, 8, 1)
    monkeypatch.setenv("SSD_WORKERS", "3")
    assert (place_workers({"CPU": 4}).least, place_workers({"CPU": 4}).count) == (3, 3)


@pytest.mark.parametrize(
    ("resources", "variables", "trials", "expected"),
    [
        ({"CPU": 2}, {}, 4, (1, 1, 2)),  # workers a trial, CPUs a worker, trials at a time
        ({"CPU": 2}, {}, 1, (1, 2, 1)),
        ({"CPU": 64}, {}, 4, (1, 16, 4)),
        ({"CPU": 64, NODE_CPUS: 8}, {}, 4, (1, 8, 8)),
        ({"CPU": 4, NODE_CPUS: 2}, {"SSD_WORKERS": "2"}, 4, (2, 1, 2)),
        ({"CPU": 32, "GPU": 4}, {}, 30, (1, 8, 4)),  # one GPU a trial
        ({"CPU": 32, "GPU": 4}, {"SSD_WORKERS": "2"}, 30, (2, 8, 2)),
    ],
)
def test_trials_share_the_cluster(monkeypatch, resources, variables, trials, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    placement = place_workers(resources, trials)
    assert (placement.count, placement.cpus, trials_at_once(resources, placement)) == expected


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SSD_WORKERS": "4-2"}, "SSD_WORKERS=4-2: a whole number from 1 on is due, or two with the lower one first"),
        ({"SSD_WORKERS": "3-4", "SSD_CPUS_PER_WORKER": "1"}, "3 workers with 1 CPUs each, but the cluster has 2"),
        ({"SSD_WORKERS": "two"}, "SSD_WORKERS=two: a whole number from 1 on is due"),
        ({"SSD_WORKERS": "3", "SSD_CPUS_PER_WORKER": "1"}, "3 workers with 1 CPUs each, but the cluster has 2"),
        ({"SSD_WORKERS": "1", "SSD_USE_GPU": "1"}, "SSD_WORKERS=1 with a GPU each, but the cluster has 0"),
    ],
)
def test_wishes_that_cannot_be_met(monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        place_workers({"CPU": 2})


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (9, 3)])
def test_a_busy_machine_may_start_ray_again(monkeypatch, failures, starts):
    seen = []

    def init(**options):
        seen.append(options)
        if len(seen) <= failures:
            raise RuntimeError("The current node timed out during startup.")  # takes a loaded machine and 30 s for real

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(RuntimeError) if failures > starts else contextlib.nullcontext():
        _init(address="local")
    assert seen == [{"address": "local"}] * starts
