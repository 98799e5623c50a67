"""The training loop spread over processes without Ray."""

import contextlib
import json
import socket
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from pipelines.training.loop import Run, fit
from ssd.checkpoint import load, save


class _Enough(Exception):  # noqa: N818
    pass


def _train(rank, workers, port, job, folder, start, stop):
    """One of `workers` processes that train from step `start` to step `stop`; rank 0 keeps the states."""
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    seen, runs, batches = [], [], Run.batches

    def watched(run):
        runs.append(run)
        for batch in batches(run):
            seen.append((run.trainer.steps, list(batch.image_ids)))
            yield batch

    def report(metrics, state):
        if state is not None:
            save(state, folder / f"{state['trainer']['steps']}.pt")
        if len(seen) + start == stop:
            raise _Enough

    with mock.patch.object(Run, "batches", watched), contextlib.suppress(_Enough):
        fit(job, report, load(folder / f"{start}.pt") if start else None)
    torch.save(runs[0].trainer.averaged_model.state_dict(), folder / f"averaged-{rank}.pt")
    (folder / f"seen-{start}-{rank}.json").write_text(json.dumps(seen))


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train_in_processes(workers, job, folder, start, stop):
    """Train from step `start` to step `stop`; STEP.pt in the folder is the state after a step."""
    arguments = (workers, _free_port(), job, folder, start, stop)
    multiprocessing.start_processes(_train, arguments, workers, start_method="forkserver")


multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])  # imported once, not by each process
