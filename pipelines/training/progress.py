"""Progress of training, as lines that a person reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.live import LiveLines
from pipelines.training.messages import Epoch, Log, Message, Send, Step
from pipelines.training.time_parts import advice


class Progress:
    """Passes on a step's progress at most once in `interval` seconds."""

    def __init__(self, send: Send, interval: float = 2.0):
        self.send, self.interval, self.last = send, interval, time.monotonic()

    def __call__(self, step: Step) -> None:
        """Send the step if the last one is long enough ago."""
        if time.monotonic() - self.last >= self.interval:
            self.last = time.monotonic()
            self.send(step)


class Display:
    """Shows how trainings go on: live lines on a terminal, elsewhere a line now and then.

    Attributes:
        epochs: of a training, unless it says another number.
        interval: seconds between two lines on a training's steps, where there are no live lines.
    """

    def __init__(self, live: LiveLines, epochs: int, interval: float = 15.0):
        self.live, self.epochs, self.interval = live, epochs, interval
        self.shown: dict[str, float] = {}  # by training, when there was a line on its steps
        self.so_far: dict[str, str] = {}

    def step(self, name: str, step: Step) -> bool:
        """Draw the live line of the training; whether a line on this step is due, for lack of one."""
        if self.live.on:
            done, total = (step.epoch - 1) * step.steps + step.step, self.epochs * step.steps
            text = f"epoch {step.epoch}/{self.epochs}, {step.images_per_s:.1f} images/s{self.so_far.get(name, '')}"
            self.live.update(name, done, total, text)
            return False
        now = time.monotonic()
        due = now - self.shown.setdefault(name, now) >= self.interval
        if due:
            self.shown[name] = now
        return due

    def epoch(self, name: str, metrics: dict[str, float], epochs: int = 0) -> None:
        """Remember what the live line says of the epochs so far."""
        self.epochs = epochs or self.epochs
        best = f", mAP {metrics['val/map']:.3f}" if "val/map" in metrics else ""
        self.so_far[name] = f", loss {metrics['train/loss']:.3f}{best}"


@contextmanager
def printing(epochs: int) -> Iterator[Callable[[Message], None]]:
    """A function that prints messages of a training of `epochs` epochs, one line each, and shows what comes between."""
    with LiveLines() as live:
        display = Display(live, epochs)

        def show(message: Message) -> None:
            match message:
                case Epoch(metrics):
                    display.epoch("train", metrics, message.epochs)
                    print(epoch_line(metrics, message.epochs or epochs), flush=True)
                case Step() if display.step("train", message):
                    print(f"  {step_line(message)}", flush=True)
                case Log(text):
                    print(f"  {text}", flush=True)

        yield show


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
