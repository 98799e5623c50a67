"""Progress of training, as lines that a person reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.training.messages import Epoch, Log, Message, Send, Step
from pipelines.training.time_parts import advice


class Progress:
    """Passes on a step's progress at most once in `interval` seconds, so that slow epochs show life."""

    def __init__(self, send: Send, interval: float = 15.0):
        self.send, self.interval, self.last = send, interval, time.monotonic()

    def __call__(self, step: Step) -> None:
        """Send the step if the last one is long enough ago."""
        if time.monotonic() - self.last >= self.interval:
            self.last = time.monotonic()
            self.send(step)

    @staticmethod
    def printer(epochs: int) -> Callable[[Message], None]:
        """A function that prints messages of a run of `epochs` epochs, one line each."""

        def show(message: Message) -> None:
            match message:
                case Epoch(metrics):
                    print(epoch_line(metrics, message.epochs or epochs), flush=True)
                case Step():
                    print(f"  {step_line(message)}", flush=True)
                case Log(text):
                    print(f"  {text}", flush=True)

        return show


def step_line(step: Step) -> str:
    """A step within an epoch in one line."""
    return f"epoch {step.epoch}: step {step.step}/{step.steps}, {step.images_per_s:.1f} images/s"


def epoch_line(metrics: dict[str, float], epochs: int) -> str:
    """One epoch in one line: losses, mAP, speed, time left, and what held it up."""
    epoch = int(metrics["epoch"])
    seconds = (metrics["time/train_s"] + metrics["time/validate_s"]) * (epochs - epoch)
    left = f", {int(seconds // 60)}:{int(seconds % 60):02d} left" if epoch < epochs else ""
    help_for = advice(metrics)
    validation = ""
    if "val/map" in metrics:
        validation = f", val mAP50 {metrics['val/map50']:.3f} mAP {metrics['val/map']:.3f}"
    return (
        f"epoch {epoch}/{epochs}: loss {metrics['train/loss']:.3f} "
        f"(class {metrics['train/class_loss']:.3f}, box {metrics['train/box_loss']:.3f}){validation}, "
        f"{metrics['time/images_per_s']:.1f} images/s{left}{help_for and f'; {help_for}'}"
    )
