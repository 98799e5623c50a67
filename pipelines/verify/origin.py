"""What is known of a version's origin: its run, parameters, lock and code, each looked up once, where it is needed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.errors import first_line
from pipelines.tracking.provenance import code_digest
from pipelines.tracking.registry import COMMIT, SHA256
from pipelines.train.stage import INITIAL_WEIGHTS, fingerprint
from pipelines.verify.links import BrokenLink, Unchecked
from pipelines.verify.repository import MODEL_JSON, Repository

DISTRUST = "do not use this version: bring back MLflow's store from a backup, or register anew by `dvc repro -f train`"


@dataclass(frozen=True)
class Lock:
    """dvc.lock of the training, as of the commit whose model.json names the weights.

    Attributes:
        commit: "" where it is not committed yet. stages: what it holds.
    """

    commit: str
    stages: dict[str, Any]

    @property
    def place(self) -> str:
        """For messages."""
        return f"dvc.lock of {self.commit[:12]}" if self.commit else "dvc.lock, not committed yet"


class Origin:
    """A version's origin; what is not there raises as the link does that needs it.

    Args:
        scratch: a folder for files that are fetched.
    """

    def __init__(self, client: MlflowClient, version: ModelVersion, folder: Path, scratch: Path):
        self.client, self.version, self.repository, self.scratch = client, version, Repository(folder), scratch

    def tag(self, name: str) -> str:
        """A tag of the version that training always sets."""
        if name not in self.version.tags:
            raise BrokenLink(f"the tag {name} of {self.version.name} v{self.version.version}", "none", DISTRUST)
        return self.version.tags[name]

    @property
    def sha256(self) -> str:
        """Digest of the weights, by the registry."""
        return self.tag(SHA256)

    @cached_property
    def run(self) -> Run:
        """The run that registered the version."""
        try:
            return self.client.get_run(self.version.run_id)
        except MlflowException as error:
            raise BrokenLink(
                f"run {self.version.run_id} of the version in MLflow", first_line(error), DISTRUST
            ) from None

    def artifact(self, name: str) -> Path | None:
        """A file of the run, fetched; None where it has none of this name."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            return Path(self.client.download_artifacts(self.run.info.run_id, name, str(folder)))
        except (MlflowException, OSError):
            return None

    @cached_property
    def resolved_file(self) -> Path:
        """resolved.yaml of the run."""
        found = self.artifact("resolved.yaml")
        if found is None:
            raise BrokenLink("resolved.yaml among the run's files", "none", DISTRUST)
        return found

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """All parameters that decide the training."""
        try:
            return dict(yaml.safe_load(self.resolved_file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise BrokenLink("parameters in the run's resolved.yaml", first_line(error), DISTRUST) from None

    @cached_property
    def lock(self) -> Lock:
        """dvc.lock that pins these weights, of this training where there is one: other code may make the same."""
        commit = self.repository.commit_with_model(self.sha256, self.tag("fingerprint"))
        if commit is None:
            commit = self.repository.commit_with_model(self.sha256)
        if commit is None:
            raise Unchecked(
                f"no commit here has a {MODEL_JSON} of the weights {self.sha256[:12]}",
                "commit it with dvc.lock after `dvc repro`, or `git fetch --all`",
            )
        return Lock(commit, self.repository.lock(commit or None))

    @property
    def dirty(self) -> bool:
        """Whether the training ran with uncommitted changes."""
        return self.version.tags.get("git.dirty", self.run.data.tags.get("git.dirty")) == "true"

    @cached_property
    def commit(self) -> str:
        """The commit that holds the code of the training: with parameters and data it makes the fingerprint.

        It is the one of the version's tag, or, if there were uncommitted changes, the one of the lock.
        """
        named = self.version.tags.get(COMMIT)
        if not named:
            raise Unchecked("the training ran outside of a git repository")
        self.repository.require(named)
        if self._makes_the_fingerprint(named):
            return named
        if not self.dirty:
            raise BrokenLink(
                f"training {self.tag('fingerprint')} of the code, parameters, data and initial weights that are named",
                f"{self._fingerprint(named)} of commit {named[:12]}",
                "one of the four is another than was trained with; " + DISTRUST,
            )
        if self.lock.commit and self._makes_the_fingerprint(self.lock.commit):
            return self.lock.commit
        raise Unchecked(
            f"trained with uncommitted changes on {named[:12]}, and no commit here holds them",
            "commit before `dvc repro`",
        )

    def _makes_the_fingerprint(self, commit: str) -> bool:
        return self._fingerprint(commit) == self.tag("fingerprint")

    def _fingerprint(self, commit: str) -> str:
        weights = None
        if self.resolved.get("train", {}).get("weights") != "none":
            weights = self.run.data.tags.get(INITIAL_WEIGHTS)
            if weights is None:
                raise Unchecked("this training did not note the digest of its initial weights", "train with this code")
        return fingerprint(self.resolved, self.tag("data.digest"), code_digest("train", self.code(commit)), weights)

    def code(self, commit: str) -> Path:
        """A folder with the files of a commit."""
        folder = self.scratch / f"code-{commit[:40]}"
        return folder if folder.is_dir() else self.repository.export(commit, folder)
