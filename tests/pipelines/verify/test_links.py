"""What is said of links, and what git and dvc.lock say of this repository."""

import pytest

from pipelines.settings import ROOT
from pipelines.verify.links import BrokenLink, Unchecked, expect, walk
from pipelines.verify.repository import Repository, entries, md5_of

in_git = pytest.mark.skipif(Repository(ROOT).git("rev-parse") is None, reason="not in a git repository")


def test_each_link_is_said_in_a_line():
    def fails():
        expect("train.lr", "0.1", "0.2", ("the lock", "the run"), "bring it back")

    def unknown():
        raise Unchecked("another machine", "train there")

    lines = [str(link) for link in walk([("a", lambda: "fine"), ("b", fails), ("c", unknown), ("d", fails)])]
    assert lines == [
        "✓ a            fine",
        "✗ b            expected train.lr 0.1 (the lock), found train.lr 0.2 (the run); bring it back",
        "– c            cannot be checked here: another machine; train there",
        "– d            cannot be checked here: b does not hold",
    ]


def test_a_folders_md5_is_dvcs():
    """Of the tree that dvc.lock was written for; the baseline may be older than today's code."""
    repository = Repository(ROOT)
    if repository.read("HEAD", "dvc.lock") is None:
        pytest.skip("dvc.lock is not in git")
    pinned = entries(repository.lock("HEAD")["train"])
    for path in ("artifacts/train/model.json", "artifacts/train/history.csv"):
        assert md5_of(ROOT / path) == pinned[path]


def test_md5_of_a_folder(tmp_path):
    # as `dvc add` wrote it for these two files
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "folder/b.txt").write_text("two\n")
    (tmp_path / "folder/inner/a.txt").write_text("one\n")
    assert md5_of(tmp_path / "folder") == "c810a39d01942b03a9a4b17f3c04bf06.dir"
    assert md5_of(tmp_path / "nothing") is None


@in_git
def test_a_commit_that_is_not_there():
    repository = Repository(ROOT)
    repository.require(repository.git("rev-parse", "HEAD").decode().strip())
    for commit in ("0" * 40, "--help", "HEAD"):
        with pytest.raises((BrokenLink, Unchecked)):
            repository.require(commit)


def test_outside_of_git_nothing_is_broken(tmp_path):
    with pytest.raises(Unchecked, match="is no git repository"):
        Repository(tmp_path).require("0" * 40)
