"""Chaos: on a small real cluster, kill -9 anything at random steps, and see that nothing is lost.

`make chaos`, or `python -m tests.chaos --rounds 20 --seed 0`. Each round trains the same run anew as a Ray job, with
an MLflow experiment and a storage prefix of its own. What dies in a cluster its supervisor starts again; where a user
would run the command again, so does this. The weights must end bit-identical to those of the calm round.

With `--apart` (Linux, root, `ip`) every node has a network of its own, and cables are pulled as well: for a moment, or
until Ray has given the node up, which does not know that and comes back.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient

from infra.local import network
from infra.local.cluster import NODES, Cluster
from pipelines.params import load_params
from pipelines.prepare.stage import prepare
from pipelines.store.checkpoints import StoredCheckpoints, step_of
from pipelines.store.s3 import SHA256, ObjectStore
from pipelines.tracking.registry import read_model_json
from tests.conftest import TINY, draw_voc, write_params
from tests.pipelines.training.states import tensors, timeless

ROOT = Path(__file__).parents[1]
# "helpers" is the node without CPUs; the last is no kill, but what a user does.
VICTIMS = ("worker", "node", "helpers", "driver", "client", "mlflow", "s3", "ctrl-C")
CABLES = {"blink": 8, "cut": 100}  # of a node that trains; seconds
EPOCHS, STEPS = 16, 3  # an epoch has 3 steps and ends with a checkpoint
START = "\n--- the command\n"
TRIES = 12  # a user's patience


class Supervised:
    """The cluster, and the thread that starts again what has died."""

    def __init__(self, folder: Path, **how: bool):
        self.folder, self.cluster = folder, Cluster(folder, **how)
        self.timers = []
        self.cluster.start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self):
        while not self._stop.wait(1.0):
            self.cluster.revive()

    def stop(self):
        for timer in self.timers:
            timer.cancel()
        self._stop.set()
        self._thread.join()
        self.cluster.stop()

    def below(self, service, words):
        """Processes below a service whose command line holds `words`."""
        found = []
        for name, pid in self.cluster.pids().items():
            with contextlib.suppress(psutil.Error):
                if name.startswith(service):
                    family = psutil.Process(pid).children(recursive=True)
                    found += [one for one in family if words in " ".join(one.cmdline())]
        return found

    def pull(self, victim, rng):
        """Pull the cable of a node that trains, and have it plugged in again after a while; whether there was one."""
        training = [n for n in range(1, NODES + 1) if self.below(f"node-{n}", "RayTrainWorker")]
        if training:
            number, cables = rng.choice(training), self.cluster.network
            cables.cut(number)
            self.timers.append(threading.Timer(CABLES[victim], cables.mend, [number]))
            self.timers[-1].start()
        return bool(training)

    def kill(self, victim, client, rng):
        """kill -9 of one process of a kind; whether there was one."""
        if victim in ("mlflow", "s3", "client"):
            pid = client.pid if victim == "client" else self.cluster.pids()["rgw" if victim == "s3" else "mlflow"]
            os.killpg(pid, signal.SIGKILL)
            return True
        where = {
            "worker": ("node", "RayTrainWorker"),
            "node": ("node", "raylet/raylet"),
            "helpers": ("helpers", "raylet/raylet"),  # a node without CPUs: what else Ray has put there
            "driver": ("head", "-m pipelines.train"),
        }
        found = self.below(*where[victim])
        if found:
            rng.choice(found).kill()
        return bool(found)


class Round:
    """One training as a job, from nothing, in a corner of its own."""

    def __init__(self, name, supervised, data):
        self.supervised, self.name, self.data = supervised, name, data
        self.out = data / name
        facts = supervised.cluster.client
        self.environment = {**os.environ, **facts, "STORAGE_URI": f"s3://ssd/{name}", "MLFLOW_EXPERIMENT_NAME": name}
        self.environment |= {"SSD_WORKERS": "2", "SSD_CPUS_PER_WORKER": "1", "SSD_MAX_FAILURES": "10"}
        for home in supervised.folder.glob("home-*"):  # what the round before left: this one begins from nothing
            shutil.rmtree(home, ignore_errors=True)

    def start(self):
        command = [sys.executable, "-m", "pipelines.train", "--prepared", str(self.data / "prepared")]
        command += ["--params", str(self.data / "params.yaml"), "--out", str(self.out)]
        command += ["--tuned", str(self.data / "none.yaml")]  # not what the repository's own search has handed over
        with open(self.data / f"{self.name}.log", "a") as log:
            log.write(START)
            log.flush()
            return subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def step(self):
        """The last step that a checkpoint was written after, on any node."""
        steps = [step_of(path.name) for path in self.supervised.folder.glob("home-[1-9]/train-*/step-*.pt")]
        return max(steps, default=0)

    def run(self, plan, rng):
        """Train to the end, killing as planned: pairs of a step and a victim. Returns how often the command was run."""
        plan, runs, client = sorted(plan), 1, self.start()
        end = time.monotonic() + 900
        while True:
            assert time.monotonic() < end, f"{self.name}: no end within 900 s\n{self.log()}"
            if plan and self.step() >= plan[0][0] and self.strike(plan[0][1], client, rng):
                plan.pop(0)
            if client.poll() is not None:
                if client.returncode == 0:
                    assert not plan, f"{self.name} ended before {plan}"
                    return runs
                assert runs < TRIES, f"{self.name}: not after {runs} runs of the command\n{self.log()}"
                runs, client = runs + 1, self.start()
            time.sleep(0.1)

    def strike(self, victim, client, rng):
        """Kill a process of a kind, pull a cable, or press ctrl-C; whether there was one."""
        if victim in CABLES:
            return self.supervised.pull(victim, rng)
        if victim != "ctrl-C":
            return self.supervised.kill(victim, client, rng)
        looks_on = any(words in self.log().rpartition(START)[2] for words in ("submitted with", "following it"))
        client.send_signal(signal.SIGINT)
        code = client.wait(120)  # one that has not found its job yet cannot stop it
        assert code == 128 + signal.SIGINT or (code == -signal.SIGINT and not looks_on), f"ctrl-C: exit code {code}"
        return True

    def log(self):
        return (self.data / f"{self.name}.log").read_text()[-4000:]

    def result(self):
        """The outcome of the last checkpoint in the store."""
        with _environment(self.environment):
            objects = ObjectStore(self.environment["STORAGE_URI"])
            (run,) = {name.split("/")[1] for name in objects.list_sizes("runs")}
            with tempfile.TemporaryDirectory() as folder:
                step, state = StoredCheckpoints(Path(folder) / run, objects).latest()
        assert step == EPOCHS * STEPS
        return outcome(state)

    def check(self):
        """Outputs are here; MLflow has every epoch once and the true state; nothing is left over or half-written."""
        names = {path.name for path in self.out.iterdir()}
        assert names == {"model.pt", "model.json", "history.csv", "curves.png", "augmented.jpg", "resolved.yaml"}, names
        tracker = MlflowClient(self.environment["MLFLOW_TRACKING_URI"])
        (run,) = tracker.search_runs([tracker.get_experiment_by_name(self.name).experiment_id])
        assert run.info.status == "FINISHED"
        for key in ("train/loss", "val/map"):
            steps = [metric.step for metric in tracker.get_metric_history(run.info.run_id, key)]
            assert steps == list(range(1, EPOCHS + 1)), (key, steps)
        model = read_model_json(self.out / "model.json")
        (version,) = tracker.search_model_versions(f"run_id = '{run.info.run_id}'")
        assert (model.fingerprint, model.sha256) == (run.data.tags["ssd.fingerprint"], version.tags["ssd.sha256"])
        self.check_objects()
        end = time.monotonic() + 30
        while left := self.supervised.below("", "RayTrainWorker") + self.orphans():
            assert time.monotonic() < end, f"left over: {[one.cmdline() for one in left]}"
            time.sleep(0.5)

    def orphans(self):
        """Processes of this cluster's jobs that no service is above any more."""
        found = []
        for one in psutil.process_iter(["cmdline"]):
            words = " ".join(one.info["cmdline"] or [])
            if "RayTrainWorker" in words or "-m pipelines.train" in words:
                with contextlib.suppress(psutil.Error):
                    if one.environ().get("SSD_HOME", "").startswith(str(self.supervised.folder)):
                        found.append(one)
        return found

    def check_objects(self):
        """Every object is what its digest says, and no output waits to be collected."""
        with _environment(self.environment):
            objects = ObjectStore(self.environment["STORAGE_URI"])
            sizes = objects.list_sizes()
            assert not [name for name in sizes if name.startswith("jobs/")]
            for name in sizes:
                answer = objects.client.get_object(Bucket=objects.bucket, Key=objects.key(name))
                assert hashlib.sha256(answer["Body"].read()).hexdigest() == answer["Metadata"][SHA256], name


def outcome(state):
    """What training led to, but for the time it took: a checkpoint's tensors, history and best epoch."""
    result = {
        name: hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, value in tensors(state).items()
    }
    for row in timeless(state["history"]):
        result |= {f"epoch {row['epoch']} {key}": value for key, value in row.items()}
    return result | {"best epoch": state["best"]["epoch"]}


@contextlib.contextmanager
def _environment(variables):
    before = dict(os.environ)
    os.environ.update({key: value for key, value in variables.items() if key.startswith("AWS_")})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def plans(rounds, seed, victims=VICTIMS):
    """For each round one to three victims with their steps; over the rounds all kinds come equally often."""
    rng, pool = random.Random(seed), []
    last = EPOCHS * STEPS - 9
    for _ in range(rounds):
        plan = []
        for _ in range(rng.randint(1, 3)):
            pool = pool or rng.sample(victims, len(victims))
            plan.append((rng.randint(1, last), pool.pop()))
        yield sorted(plan)


def prepare_data(folder):
    """Photographs, parameters and shards of all rounds; the parameters."""
    draw_voc(folder / "raw", 40)
    params = load_params(write_params(folder / "params.yaml", {**TINY, "train.epochs": EPOCHS}))
    prepare(folder / "raw", folder / "prepared", params.prepare, params.seed)
    return params


def chaos(folder, planned, seed, say=print, calm=None, **how):
    """Run the planned rounds in a folder with `data`; raises AssertionError where something was lost.

    `calm`: the outcome that all have to come to; None: that of a round before them, in which nothing is killed.
    `how`: of `infra.local.cluster.Cluster`, `apart` and `tls`.
    """
    data, started, rng = folder / "data", time.monotonic(), random.Random(seed)
    supervised = Supervised(folder / "c", **how)
    try:
        say(f"cluster up after {time.monotonic() - started:.0f} s; seed {seed}, {EPOCHS} epochs of {STEPS} steps")
        say(f"{'round':>5} {'s':>4} {'runs':>4} {'weights':<12} killed (after step)")
        for number, plan in enumerate(planned if calm else [[], *planned], start=1 if calm else 0):
            started = time.monotonic()
            one = Round(f"round-{number}", supervised, data)
            runs = one.run(plan, rng)
            one.check()
            result = one.result()
            calm = calm or result
            digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
            killed = ", ".join(f"{victim} ({step})" for step, victim in plan) or "nothing: the calm round"
            say(f"{number:>5} {time.monotonic() - started:>4.0f} {runs:>4} {digest[:12]} {killed}")
            other = [
                f"{key}: {calm.get(key)} → {result.get(key)}"
                for key in calm | result
                if calm.get(key) != result.get(key)
            ]
            assert not other, f"round {number} ended otherwise than the calm one:\n" + "\n".join(other)
    finally:
        supervised.stop()
    say(f"{len(planned)} rounds: nothing lost, nothing twice, weights bit-identical")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--apart", action="store_true", help="each node in a network of its own; pull cables, too")
    parser.add_argument("--tls", action="store_true", help="Ray's processes encrypt what they say")
    parser.add_argument("--victims", nargs="+", choices=[*VICTIMS, *CABLES], help="that are killed, or cut off")
    args = parser.parse_args()
    victims = args.victims or (*VICTIMS, *(CABLES if args.apart else ()))
    if not args.apart and set(victims) & set(CABLES):
        parser.error("cables are pulled with --apart alone")
    if args.apart and (reason := network.missing()):
        parser.error(reason)
    with tempfile.TemporaryDirectory(prefix="ssd-chaos-", ignore_cleanup_errors=True) as folder:
        prepare_data(Path(folder) / "data")
        planned = list(plans(args.rounds, args.seed, victims))
        how = {"apart": args.apart, "tls": args.tls}
        chaos(Path(folder), planned, args.seed, lambda text: print(text, flush=True), **how)


if __name__ == "__main__":
    main()
