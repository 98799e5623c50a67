"""One job on a Ray cluster's job server: submit it, follow it to its end, stop it."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from typing import Any

from pipelines.cluster.ray import ClusterError
from pipelines.errors import first_line, without_secrets

PATIENCE = 300.0  # seconds that the head may be away before the client gives up following
START_PATIENCE = 120.0  # seconds that a head which has just started may refuse jobs
STOP_SECONDS = 60  # that a stopped job has for telling MLflow and leaving


class RemoteJob:
    """The job called `name` on the job server at `address`.

    Raises:
        ClusterError: the job server does not answer.
    """

    def __init__(self, address: str, name: str):
        from ray.job_submission import JobSubmissionClient

        self.address, self.name = without_secrets(address), name
        try:
            self._client: Any = JobSubmissionClient(address)
        except Exception as error:
            hint = "; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if "auth" in str(error).lower() else ""
            raise ClusterError(
                f"RAY_ADDRESS={self.address}: no job server answers: {first_line(error)}{hint}"
            ) from error

    def status(self) -> str | None:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; None where there is no such job."""
        try:
            return str(self._client.get_job_status(self.name).value)
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return None
            raise ClusterError(f"{self.name}: {first_line(error)}") from error

    def submit(self, command: str, runtime_env: dict[str, Any]) -> None:
        """Submit the job; a head that has just started is asked again for a while.

        Raises:
            ClusterError: the job server refuses.
        """
        end = time.monotonic() + START_PATIENCE
        while True:
            try:
                self._client.submit_job(entrypoint=command, submission_id=self.name, runtime_env=runtime_env)
                return
            except Exception as error:
                if self.status() is not None:  # another client was faster
                    return
                reason = without_secrets(str(error).strip().splitlines()[-1])[:300]
                if "try again" not in reason or time.monotonic() > end:
                    raise ClusterError(f"{self.name}: refused: {reason}") from error
                time.sleep(2)

    def output(self) -> str:
        """All that the job has printed."""
        return self._client.get_job_logs(self.name)

    def delete(self) -> None:
        """Remove what the server knows of an ended job, so that its name is free."""
        self._client.delete_job(self.name)

    def follow(self) -> int:
        """Print the job's output until it ends; returns its exit code.

        Raises:
            ClusterError: the job server has been away for too long.
        """
        shown, away = 0, None
        while True:
            shown = self._print_output(shown)
            try:
                details = self._client.get_job_info(self.name)
                away = None
            except Exception as error:
                away = away or time.monotonic()
                if time.monotonic() - away > PATIENCE:
                    raise ClusterError(
                        f"{self.address} has not answered for {PATIENCE:.0f} s. The job {self.name} may go on; the "
                        "same command follows it again"
                    ) from error
            if away is None and details.status.is_terminal():
                break
            time.sleep(0.5)
        if details.status == "SUCCEEDED":
            return 0
        code = details.driver_exit_code
        if not code or code < 0:
            print(f"{self.name}: {details.status.value}: {details.message}", file=sys.stderr, flush=True)
        return code if code and code > 0 else 1

    def _print_output(self, shown: int) -> int:
        """Print what comes after the first `shown` characters of the output, until the connection ends."""

        async def follow() -> None:
            nonlocal shown
            skip = shown
            async for text in self._client.tail_job_logs(self.name):
                new, skip = text[skip:], max(skip - len(text), 0)
                print(new, end="", flush=True)
                shown += len(new)

        with suppress(Exception):  # the job is not there yet, the head restarts, the network: its status says what
            asyncio.run(follow())
        return shown

    def stop(self) -> None:
        """Stop the job, also one whose submission is still under way, and wait until it has ended."""
        print(f"{self.name}: stopping", file=sys.stderr, flush=True)
        try:
            if self.status() is None:
                time.sleep(2)  # it may be on its way
            if self.status() is None:
                return
            self._client.stop_job(self.name)
            end = time.monotonic() + STOP_SECONDS + 10
            while self.status() in ("PENDING", "RUNNING") and time.monotonic() < end:
                time.sleep(0.5)
        except Exception as error:  # ctrl-C ends this process all the same
            print(f"{self.name}: may go on, {self.address} does not answer: {first_line(error)}", file=sys.stderr)
