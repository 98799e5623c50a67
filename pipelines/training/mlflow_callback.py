"""What Ray Train's controller does for MLflow: one writer for all workers, whoever of them is lost."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from pipelines.tracking.runs import RunLog, RunSpec, Writer
from pipelines.training.messages import Log, Send


class MlflowCallback(UserCallback):
    """Hands every reported history to a `Writer` in the controller's process."""

    def __init__(self, spec: RunSpec, send: Send):
        self.spec, self.send = spec, send
        self.writer: Writer | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Log rank 0's history as far as MLflow lacks it."""
        history = next((m["history"] for m in metrics if "history" in m), None)
        if history is None:
            return
        if self.writer is None:
            log = RunLog(self.spec)
            self.writer = Writer(log.write, lambda text: self.send(Log(text)), finish=log.finish)
        self.writer.update(history)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell the user that workers were lost; Ray replaces them."""
        for rank, error in worker_exceptions.items():
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self.send(Log(f"worker {rank} was lost: {reason}"))
