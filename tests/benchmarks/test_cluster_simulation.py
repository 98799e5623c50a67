"""The simulation of an epoch on many GPUs, against cases that are computed by hand."""

from pathlib import Path

import pytest

from benchmarks.cluster_simulation import (
    Barrier,
    Costs,
    Server,
    Simulation,
    Site,
    changes,
    describe,
    price,
    simulate,
    whole,
)

ROUND = Costs(
    gradients=30.0, image=10.0, decode=2.0, augment=0.25, copy=1.0, write=2.0, metrics=4.0, barrier=0.5, poll=0.25
)
TWO = Site(
    gpus=2, images=8, validated=5000, batch=1, gpus_a_node=1, cores=1, speed=1.0, inference=1000.0, network=10.0,
    store=8.0, between=0.2, question=0.0, gpu_hour=3600.0, gigabyte=1e9,
)  # fmt: skip


def test_a_server_serves_one_after_the_other_and_a_barrier_holds_all_until_the_last():
    clock, seen = Simulation(), []
    server, barrier = Server(clock, rate=2.0), Barrier(2)

    def process(name, before):
        yield before
        yield server.wait(4)  # 2 s each: the first from 1 to 3, the second, which comes at 1.5, from 3 to 5
        seen.append((name, clock.now))
        yield barrier
        seen.append((name, clock.now))

    clock.start(process("b", 1.5))
    clock.start(process("a", 1.0))
    clock.run()
    assert seen == [("a", 3.0), ("b", 5.0), ("a", 5.0), ("b", 5.0)]


def test_two_gpus_on_two_nodes_as_by_hand():
    """4 steps of one image each a GPU; 80 bytes of data and 16 s of decoding for each node.

    Store: both nodes' 160 bytes at 8 a second: 20 s, of which the first node, always served first, is done one
    hundredth of 10 s before. Step: 1 s of GPU; gradients flow from a third of it on, 2·(1/2)·30 bytes at 10 a second:
    1/3 + 3 = 3.33 s, 2.33 of them beyond the GPU's. Images come every 0.25 s; only the first is waited for. Validation:
    5000 / 2 / 1000 = 2.5 s, and 4 s for the metrics. Report: 2·0.5 in the barrier, 0.1 until the controller looks, and
    2·0.25 there.
    """
    found = simulate(TWO, ROUND)
    assert found.before.total() == pytest.approx(20 - 0.1 + 16)
    assert found.epoch == pytest.approx(
        {"augmentation": 0.25, "GPU": 4.0, "all-reduce": 4 * 7 / 3, "validation": 6.5, "checkpoint": 3.0, "report": 1.6}
    )
    assert found.bottleneck == "all-reduce"
    assert price(TWO, ROUND, 10.0, read=False) == 2 * 10
    assert price(TWO, ROUND, 10.0, read=True) == pytest.approx(20 + 2 * 80)


@pytest.mark.parametrize(("question", "seconds"), [(5.0, 1.0), (2.0, 3.0)])
def test_a_barrier_of_ray_makes_all_workers_wait(question, seconds):
    """After steps that take 3.33 s: with 5 s between two of them one comes after the second step, with 2 s three."""
    asked = Site(**{**vars(TWO), "question": question})
    assert simulate(asked, ROUND).epoch["Ray's barriers"] == pytest.approx(seconds)


def test_one_node_has_nobody_to_reduce_with():
    assert simulate(Site(**{**vars(TWO), "gpus_a_node": 2}), ROUND).epoch["all-reduce"] == 0


def test_augmentation_that_is_slower_than_the_gpu_sets_the_pace():
    found = simulate(Site(**{**vars(TWO), "gpus_a_node": 2}), Costs(**{**vars(ROUND), "augment": 2.0}))
    assert found.epoch["augmentation"] == pytest.approx(4 + 3 * 3)  # two images each 4 s, one of them beside a step
    assert found.bottleneck == "augmentation"


def test_a_part_of_the_images_on_each_node_is_read_in_a_part_of_the_time():
    """80 bytes in all, 40 for each node; 8 s of decoding for each."""
    half = Site(**{**vars(TWO), "part": True})
    assert simulate(half, ROUND).before.total() == pytest.approx(10 - 0.05 + 8)
    assert price(half, ROUND, 0.0, read=True) == pytest.approx(80)


def test_what_is_said_of_a_site_names_the_best_change_first():
    said = describe(TWO, ROUND)
    assert "waits most for: all-reduce" in said
    assert "with one change: 400 Gbit/s between nodes" in said
    assert all(name in said for name in changes(TWO, ROUND))
    epoch = simulate(TWO, ROUND).epoch.total()
    assert whole(TWO, ROUND)[0] == pytest.approx(35.9 + 24 * epoch)


def test_the_page_on_scaling_has_what_the_simulation_says():
    page = (Path(__file__).parents[2] / "infra" / "SCALING.md").read_text()
    page = page.split("## 10 million photographs")[1].split("## COCO")[0]
    rows = {cells[1].strip(" *"): cells[2:] for line in page.splitlines() if len(cells := line.split("|")) == 6}
    for gpus, column in ((64, 1), (512, 2)):
        site, costs = Site(gpus), Costs()
        found = simulate(site, costs)
        hours, total = whole(site, costs)
        seconds = found.epoch.total()
        assert rows["an epoch"][column].strip(" *") == f"{seconds:.3g} s"
        assert rows["of it GPU"][column].strip() == f"{found.epoch['GPU']:.3g} s"
        assert rows["waiting for all-reduce"][column].strip() == f"{found.epoch['all-reduce']:.3g} s"
        assert rows["price of an epoch"][column].strip(" *") == f"{price(site, costs, seconds, False):.2f}"
        assert rows["before the first step"][column].strip() == f"{found.before.total() / 60:.0f} min"
        assert rows["24 epochs with all that"][column].strip() == f"{hours / 3600:.1f} h, {total:.0f}"
