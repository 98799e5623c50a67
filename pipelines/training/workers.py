"""Training spread over Ray Train's workers.

Ray's controller, a process of its own between this one and the workers, loads this module too: it imports no PyTorch.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.cluster.signals import in_thread
from pipelines.errors import UserError
from pipelines.training.messages import Epoch, Failure, Log, Message, Started, Step, messages

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from pipelines.tracking.runs import RunSpec
    from pipelines.training.worker import Training

UNUSUAL = 60.0  # seconds without a worker, after which the user is told

# Helpers of Ray Train's that are left out, each an actor that takes seconds of a CPU to start. DATASETS hands out what
# Ray Data reads, and nothing is read by it. CLEANER takes the workers from a controller that is gone, of which only a
# trial that is stopped from outside has need: otherwise Ray does so when the driver ends. It asks the dashboard,
# which our own clusters lack; if another cluster's is at that port, it takes the living controller for a dead one.
DATASETS, CLEANER = "DatasetsCallback", "PlacementGroupCleanerCallback"


class TrainingFailed(UserError):  # noqa: N818  named after what happened
    """Training ended before its last step; the message says why and what to do."""


class CannotTrain(TrainingFailed):
    """It would fail again wherever and whenever it is repeated: the loss is not finite, the model cannot be built."""


def work(config: dict[str, Any]) -> None:
    """Where each worker begins."""
    from pipelines.training.worker import train_on

    train_on(pickle.loads(config["training"]), config["send"])


def trainer_without(*left_out: str) -> type[TorchTrainer]:
    """Ray's trainer without callbacks of these names; Ray has no public way to do without them."""
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [one for one in super()._create_default_callbacks() if type(one).__name__ not in left_out]

    return Trainer


def run_on_ray(
    training: Training,
    show: Callable[[Step | Epoch | Log], None],
    spec: RunSpec | None = None,
    in_trial: bool = False,
) -> None:
    """Train on the cluster that this process is connected to, until the last step.

    Args:
        training: what to train, and where.
        show: given what the workers tell, in a thread of its own.
        spec: of the MLflow run; None logs nothing there.
        in_trial: whether this process is a trial of Ray Tune's, which may be stopped from outside.

    Raises:
        CannotTrain: the job itself is at fault.
        TrainingFailed: workers were lost more often than allowed, or the last checkpoint could not be stored.
    """
    import ray.train

    from pipelines.training.mlflow_callback import MlflowCallback

    folder, placement = training.folder, training.placement
    failures: list[Failure] = []
    wanted = f"{placement.count} workers with {placement.cpus} CPUs{' and a GPU' if placement.use_gpu else ''} each"
    hint = f"still waiting for {wanted}: is the cluster busy, or too small? (`ray status`)"
    patience = threading.Timer(UNUSUAL, show, [Log(hint)])
    patience.daemon = True

    def handle(message: Message) -> None:
        match message:
            case Started():
                patience.cancel()
                failures.clear()  # of workers that Ray has replaced
            case Failure():
                failures.append(message)
            case _:
                show(message)

    lost: Exception | None = None
    with messages(handle) as send:
        trainer = trainer_without(DATASETS, *([] if in_trial else [CLEANER]))(
            work,
            train_loop_config={"training": pickle.dumps(training), "send": send},
            scaling_config=ray.train.ScalingConfig(
                num_workers=placement.count
                if placement.least in (None, placement.count)
                else (placement.least, placement.count),
                use_gpu=placement.use_gpu,
                resources_per_worker={"CPU": placement.cpus},
            ),
            run_config=ray.train.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent / "ray"),
                failure_config=ray.train.FailureConfig(max_failures=placement.max_failures),
                callbacks=[MlflowCallback(spec, send)] if spec else [],
            ),
        )
        patience.start()
        try:
            in_thread(trainer.fit)
        except Exception as error:
            lost = error
        finally:
            patience.cancel()
    if failures:
        error = CannotTrain if any(failure.final for failure in failures) else TrainingFailed
        raise error("\n".join(sorted({failure.text for failure in failures}))) from lost  # whoever told it first
    if lost:
        raise TrainingFailed(f"training was lost: {str(lost).strip().splitlines()[-1]}") from lost
