"""A champion walked back to its bytes, and each link of the chain tampered with in turn."""

import json
import re
import shutil
import sqlite3
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient

from pipelines.verify.__main__ import main
from pipelines.verify.chain import check, find
from tests.conftest import long_test
from tests.pipelines.verify.project import make

pytestmark = pytest.mark.slow
LINKS = ["registry", "run", "commit", "dvc.lock", "photographs", "manifest", "shards", "weights", "metrics"]
LINKS += ["predictions"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make(tmp_path_factory.mktemp("verify"))


def verify(project, client=None, **options):
    client = client or project.client()
    return check(client, find(client, "champion", "ssd"), project.folder, project.prepared, **options)


@pytest.fixture
def said(project, monkeypatch, capsys):
    """What the command prints in the project's folder; `SystemExit` where a link does not hold."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SSD_HOME", str(project.home))

    def run(*words):
        main(words)
        return capsys.readouterr().out

    return run


def test_an_honest_champion_holds(said, project):
    printed = said()
    lines = printed.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["✓", name] for name in LINKS], printed
    assert lines[-1] == "ssd v1: 10 of 10 links hold"
    assert "model.pt agree" in printed
    for words in ("1", "v1", "candidate", "models:/ssd/1", "models:/ssd@champion"):
        assert find(project.client(), words, "ssd").version == find(project.client(), "champion", "ssd").version
    content = json.loads(said("1", "--json"))
    assert (content["version"], content["first_broken"]) == ("ssd v1", None)
    assert [link["name"] for link in content["links"]] == LINKS


@pytest.mark.parametrize(
    ("words", "complaint"), [("7", "ssd has no version 7; there are 1"), ("best", "best is not at sqlite")]
)
def test_a_version_that_is_not_there_is_named(said, words, complaint):
    with pytest.raises(SystemExit, match=f"^verify: {complaint}"):
        said(words)


@contextmanager
def changed(path, change):
    """A file with other bytes, for a while."""
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def flip(content):
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def replace(old, new):
    def change(content):
        assert old in content
        return content.replace(old, new)

    return change


def run_file(project, name):
    """A file of the run in MLflow's folder."""
    (path,) = (path for path in (project.home / "mlartifacts").rglob(name) if "/models/" not in str(path))
    return path


STORE = {
    "UPDATE model_version_tags SET value = substr(value, 1, 63) || 'x' WHERE key = 'ssd.sha256'": (
        "registry",
        "weights ",
    ),
    "UPDATE model_version_tags SET value = 'train-0123456789ab' WHERE key = 'fingerprint'": ("registry", "training "),
    "DELETE FROM model_version_tags WHERE key = 'data.digest'": ("registry", "the tag data.digest"),
    "UPDATE params SET value = '0.5' WHERE key = 'train.lr'": ("run", "train.lr 0.002 .*, found train.lr 0.5"),
    "UPDATE tags SET value = 'train-0123456789ab' WHERE key = 'ssd.fingerprint'": ("run", "training train-"),
    "UPDATE model_version_tags SET value = '0123456789012345678901234567890123456789' "
    "WHERE key = 'mlflow.source.git.commit'": ("commit", "commit 012345678901 .*no such commit"),
    "UPDATE model_version_tags SET value = '0.99' WHERE key = 'test.map'": ("metrics", r"test.map 0\..*test.map 0.99"),
    "UPDATE latest_metrics SET value = 0.99 WHERE key = 'test/map50'": ("metrics", r"test/map50 0\..*test/map50 0.99"),
    "UPDATE model_version_tags SET value = '0.1' WHERE key = 'card.protocol.detect.nms_iou'": ("metrics", "nms_iou"),
}


@pytest.mark.parametrize(("statement", "expected"), STORE.items())
def test_another_word_in_mlflow_breaks_its_link(project, tmp_path, statement, expected):
    shutil.copy(project.home / "mlflow.db", tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute(statement).rowcount
    check_broken(verify(project, MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")), *expected)


def check_broken(links, name, words):
    """The first link that does not hold; those behind it are not looked at."""
    seen = []
    for link in links:
        seen.append(str(link))
        if link.state == "broken":
            break
    assert link.state == "broken", "\n".join(seen)
    assert link.name == name, seen[-1]
    assert re.search(words, seen[-1]), seen[-1]


FILES = {
    "the run's resolved.yaml": (lambda p: run_file(p, "resolved.yaml"), replace(b"seed: 0", b"seed: 1"), "run", "seed"),
    "a photograph": (lambda p: p.folder / "data/JPEGImages/0003.png", flip, "photographs", "data .*found data"),
    "the manifest": (
        lambda p: p.prepared / "manifest.json",
        replace(b'"bar"', b'"pub"'),
        "manifest",
        "its classes or shards were changed",
    ),
    "a byte of a shard": (
        lambda p: next((p.prepared / "train").glob("*.parquet")),
        flip,
        "shards",
        r"shard train/.*not what was prepared \(its SHA-256 differs\)",
    ),
    "the quarantine": (lambda p: p.prepared / "quarantine.csv", lambda c: c + b"x", "shards", "artifacts/prepared"),
    "the registered weights": (
        lambda p: next((p.home / "mlartifacts").rglob("artifacts/model.pt")),
        flip,
        "weights",
        "found the file has the SHA-256 .*, registered was ",
    ),
    "model.pt": (lambda p: p.folder / "artifacts/train/model.pt", flip, "weights", "dvc checkout artifacts/train/mod"),
    "metrics.json of the run": (
        lambda p: run_file(p, "metrics.json"),
        replace(b'"map50": 0.', b'"map50": 0.9'),
        "metrics",
        "test.map50",
    ),
    "predictions": (lambda p: run_file(p, "predictions.parquet"), flip, "metrics", "predictions.parquet"),
}


@pytest.mark.parametrize(("find_file", "change", "name", "words"), FILES.values(), ids=FILES)
def test_another_byte_breaks_its_link(project, find_file, change, name, words):
    with changed(find_file(project), change):
        check_broken(verify(project), name, words)


@contextmanager
def another_commit(project, path, change):
    """The last commit amended with another content of a file; the history is as before afterwards."""
    head = project.run("git", "rev-parse", "HEAD")
    file = project.folder / path
    file.write_bytes(change(file.read_bytes()))
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--amend", "--no-edit")
    try:
        yield
    finally:
        project.run("git", "reset", "--quiet", "--hard", head)


def relock(path, md5):
    """dvc.lock with another md5 of an output or dependency."""

    def change(content):
        lines = content.decode().splitlines()
        for number, line in enumerate(lines):
            if line.endswith(f"path: {path}"):
                lines[number + 2] = f"      md5: {md5}"
        return "\n".join(lines).encode()

    return change


COMMITS = {
    "parameters in dvc.lock": ("dvc.lock", replace(b"lr: 0.002", b"lr: 0.001"), "dvc.lock", "train.lr 0.001"),
    "code in dvc.lock": ("dvc.lock", relock("pipelines/training", "0" * 32 + ".dir"), "dvc.lock", "pipelines/training"),
    "data in dvc.lock": (
        "dvc.lock",
        relock("artifacts/prepared", "0" * 32 + ".dir"),
        "shards",
        "found artifacts/prepared",
    ),
    "weights in dvc.lock": ("dvc.lock", relock("artifacts/train/model.pt", "0" * 32), "weights", "the file's md5"),
    "no dvc.lock of DVC's": ("dvc.lock", lambda content: b"stages", "dvc.lock", "found none, or none of DVC's"),
    "model.json": (
        "artifacts/train/model.json",
        replace(b'"epoch"', b'"epoch" '),
        "dvc.lock",
        "artifacts/train/model.json",
    ),
    "metrics.json": (
        "artifacts/evaluate/metrics.json",
        replace(b'"map": 0.', b'"map": 0.9'),
        "dvc.lock",
        "artifacts/evaluate/metrics.json",
    ),
}


@pytest.mark.parametrize(("path", "change", "name", "words"), COMMITS.values(), ids=COMMITS)
def test_another_word_in_git_breaks_its_link(project, path, change, name, words):
    with another_commit(project, path, change):
        check_broken(verify(project), name, words)


def test_results_not_committed_yet_count_before_committed_ones_of_the_same_weights(project):
    """As after `dvc repro` with other code that trains to the same bits: HEAD has the training before."""
    file = project.folder / "artifacts/train/model.json"
    content = file.read_bytes()
    with another_commit(project, "artifacts/train/model.json", replace(b'"train-', b'"train-0')):
        file.write_bytes(content)
        links = list(verify(project))
    assert [(link.name, link.state) for link in links] == [(name, "holds") for name in LINKS]


def test_numbers_that_do_not_follow_from_the_predictions(project, tmp_path):
    """Tags, metrics, files and dvc.lock changed alike: only the detections know better."""
    file = run_file(project, "metrics.json")
    tall = json.loads(file.read_text())
    tall["calibration"]["network"]["ece"] += 0.01
    shutil.copy(project.home / "mlflow.db", tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        new = (tall["calibration"]["network"]["ece"],)
        key = "test/calibration/network/ece"
        assert store.execute(f"UPDATE latest_metrics SET value = ? WHERE key = '{key}'", new).rowcount
    text = json.dumps(tall, indent=2).encode()
    with (
        changed(file, lambda _: text),
        another_commit(project, "dvc.lock", relock("artifacts/evaluate/card.json", "0")),
    ):
        links = list(verify(project, MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")))
    by_name = {link.name: link for link in links}
    assert by_name["metrics"].state == "holds", str(by_name["metrics"])
    assert by_name["predictions"].state == "broken"
    assert "calibration.network.ece" in by_name["predictions"].expected


def test_what_cannot_be_checked_is_no_fault(project, tmp_path):
    """Uncommitted code, data that are elsewhere now, no commit of the results."""
    shutil.copy(project.home / "mlflow.db", tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("UPDATE tags SET value = 'true' WHERE key = 'git.dirty'")
        store.execute("UPDATE model_version_tags SET value = 'true' WHERE key = 'git.dirty'")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    version = find(client, "champion", "ssd")
    links = list(check(client, version, tmp_path, tmp_path / "nowhere"))
    states = {link.name: link.state for link in links}
    assert "broken" not in states.values(), "\n".join(map(str, links))
    assert {name for name, state in states.items() if state == "holds"} == {"registry", "run", "weights", "metrics"}
    said = {link.name: str(link) for link in links}
    assert "is no git repository" in said["commit"]
    assert said["dvc.lock"].startswith("– dvc.lock     cannot be checked here: no commit here has a")
    assert "holds no prepared data" in said["shards"]


def test_data_that_prepare_has_replaced_come_from_dvcs_cache(project, tmp_path):
    client = project.client()
    links = list(check(client, find(client, "1", "ssd"), project.folder, tmp_path / "nowhere"))
    assert [(link.name, link.state) for link in links] == [(name, "holds") for name in LINKS], "\n".join(
        map(str, links)
    )


@long_test
def test_trained_again_the_weights_are_the_same(project, own_home):
    links = list(verify(project, retrain=True))
    assert links[-1].name == "retraining"
    assert links[-1].state == "holds", str(links[-1])
    assert not list((own_home / "verify").iterdir())  # what is done is removed
