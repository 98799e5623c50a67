"""A trial in a process, first or after another."""

import torch

from pipelines.cluster.ray import Placement
from pipelines.params import load_params
from pipelines.store.checkpoints import checkpoints
from pipelines.training.loop import Job
from pipelines.training.worker import Training
from pipelines.tune.trial import _in_this_process
from tests.conftest import TINY, write_params
from tests.pipelines.training.states import same

ALONE = Placement(count=1, use_gpu=False, cpus=torch.get_num_threads(), loader_workers=0, max_failures=0)


def test_a_trial_after_another_in_its_process_is_the_same_and_tells_its_epochs_with_resamples(tiny_prepared, tmp_path):
    def run(name, **changes):
        params = load_params(write_params(tmp_path / "p.yaml", TINY | {"train.epochs": 1} | changes))
        told = []
        job = Job(params, tiny_prepared, tmp_path / "cache", resamples=20)
        training = Training(job, tmp_path / name, ALONE)
        _in_this_process(training, lambda *report: told.append(report), lambda message: None)
        return checkpoints(tmp_path / name).latest()[1], told

    first, told = run("first")
    run("other", **{"train.lr": 0.01, "seed": 7})
    again, _ = run("again")
    same(first, again)
    assert first["resampled"] == again["resampled"]
    assert told == [(first["history"], first["resampled"])]
    assert len(first["resampled"][1]) == 20
    _, told = run("first")  # restarted after its end: what it did is told again
    assert told == [(first["history"], first["resampled"])]
