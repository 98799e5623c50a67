"""`ssd doctor --quick` on set-ups that are broken in one place: that is named, and nothing else."""

import functools
import re
import resource
import shutil
import sqlite3
from collections import namedtuple

import pytest

from pipelines.doctor.checks import examine
from pipelines.preflight import machine, packages, parameters
from pipelines.preflight.findings import guarded
from pipelines.recipe.rules import RULES
from tests.pipelines.doctor.projects import DATA, Project, wrong

GIB = 1 << 30
AVX2, BF16 = {"avx2", "avx512f"}, {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
LARGE = {"deps": [{"path": "s3://b/a"}], "outs": [{"path": "data", "md5": DATA, "size": 102.4 * GIB}]}
Usage = namedtuple("Usage", "total used free")
installed = functools.cache(packages.installed)  # of hundreds of packages; they stay while the tests run


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A good project on a good machine, and what a test needs to break it."""
    found = Project(tmp_path / "project")
    monkeypatch.chdir(found.folder)
    monkeypatch.setattr(machine, "cpu_flags", lambda: BF16)
    monkeypatch.setattr(machine, "memory_limit", lambda: 16 * GIB)
    monkeypatch.setattr(packages, "installed", installed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GIB, 50 * GIB, 50 * GIB))
    found.patch = monkeypatch
    return found


def params(**changes):
    """Other parameters; a key's dots are double underscores."""
    return lambda project: project.set({key.replace("__", "."): value for key, value in changes.items()})


def variables(**values):
    """Environment variables."""
    return lambda project: [project.patch.setenv(name, value) for name, value in values.items()]


def prepared(**how):
    """Other prepared data."""
    return lambda project: project.set(**how)


def text(name, content):
    """A file's content."""
    return lambda project: project.write(name, content)


def patched(module, name, value):
    """What a function of the machine gives."""
    return lambda project: project.patch.setattr(module, name, lambda *_: value)


def both(*breaks):
    return lambda project: [one(project) for one in breaks]


def without(name):
    return lambda project: shutil.rmtree(project.folder / name)


def other_versions(project):
    lock = (project.folder / "requirements.lock").read_text()
    (project.folder / "requirements.lock").write_text(re.sub(r"^(numpy|pillow)==\S+", r"\1==0.1", lock, flags=re.M))


def merge(name):
    def conflict(project):
        content = (project.folder / name).read_text()
        (project.folder / name).write_text(f"<<<<<<< HEAD\n{content}=======\n>>>>>>> other\n")

    return conflict


def damaged_store(project):
    file = machine.home() / "mlflow.db"
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE experiments (name TEXT)")
        store.executemany("INSERT INTO experiments VALUES (?)", [["x" * 3000]] * 50)
    store.close()
    content = bytearray(file.read_bytes())
    content[4096:-100] = b"\xff" * (len(content) - 4196)
    file.write_bytes(content)


def home_is_a_file(project):
    (project.folder / "taken").touch()
    project.patch.setenv("SSD_HOME", str(project.folder / "taken"))


def changed_manifest(project):
    path = project.folder / "artifacts/prepared/manifest.json"
    path.write_text(
        path.read_text().replace("train.parquet", "other.parquet").replace('"sha256":"train"', '"sha256":"y"')
    )


ADAMW, SGD = {"train__optimizer": "adamw"}, {"train__optimizer": "sgd"}
BROKEN = {  # name: (what breaks it, check, state, what the message and its fix say)
    "a learning rate that YAML takes for a string": (
        params(train__lr="1e-4"), "parameters", "error", r"train\.lr: '1e-4' is a string, a number is due"),
    "a misspelt key": (params(train__epoch=3), "parameters", "error", r"train\.epoch: unknown key"),
    "anchors that the backbone has no maps for": (
        params(model__anchors__sizes=[[0.1, 0.2], [0.3, 0.4]]), "parameters", "error", "anchors"),
    "a batch that no network takes": (params(train__batch_size=0), "parameters", "error", "batch_size is not positive"),
    "an empty params.yaml": (text("params.yaml", ""), "parameters", "error", "params.yaml: sections are due"),
    "a misspelt variable": (variables(SSD_WORKER="2"), "settings", "error", "did you mean SSD_WORKERS"),
    "no workers": (variables(SSD_WORKERS="0"), "settings", "error", "SSD_WORKERS=0: a whole number from 1 on is due"),
    "an address without a host": (
        variables(MLFLOW_TRACKING_URI="http://"), "settings", "error", "http://host:port or https://host is due"),
    "packages that are not those of the lock": (
        other_versions, "packages", "warning", r"numpy \S+ \(locked: 0\.1\), pillow .*make setup"),
    "an empty lock": (text("requirements.lock", ""), "packages", "error", "git checkout requirements.lock"),
    "Python that is too new": (
        lambda project: project.patch.setattr(packages.sys, "version_info", (3, 13, 0, "final", 0)),
        "Python", "error", r"3\.13\.0, but 3\.11 or 3\.12 is due.*make PYTHON=python3\.11 setup"),
    "a processor without AVX2": (patched(machine, "cpu_flags", {"sse4_2"}), "processor", "warning", "no AVX2"),
    "bf16 on a processor without it": (
        patched(machine, "cpu_flags", AVX2), "processor", "warning", r"bf16, which .* train\.precision: fp32"),
    "too little memory": (
        patched(machine, "memory_limit", 3 * GIB), "memory", "warning", r"3\.0 GiB free, about 0\.9 .* lower train"),
    "a batch that memory does not hold": (
        both(params(train__batch_size=512, train__epochs=200, tune__trials=0),
             patched(machine, "memory_limit", 8 * GIB)),
        "memory", "warning", "8.0 GiB free, about 11.* for a step of 512 images"),
    "a disk that does not hold the decoded images": (
        both(prepared(train=400_000), params(train__epochs=40), variables(SSD_CACHE_GIB="100")),
        "disk", "error", r"decoded images 73\.3.*choose another disk by SSD_HOME"),
    "a cache that does not hold the data set": (
        variables(SSD_CACHE_GIB="0.1"), "cache", "warning", r"take 0\.2 GiB, SSD_CACHE_GIB allows 0\.1; raise it"),
    "a folder too deep for Ray's sockets": (
        variables(RAY_TMPDIR="/tmp/" + "deep/" * 12), "Ray's folder", "error", "the kernel takes 107.*RAY_TMPDIR=/tmp"),
    "few open files": (
        lambda project: project.patch.setattr(resource, "getrlimit", lambda _: (256, 1024)),
        "open files", "warning", "a process may open 1024; .*ulimit"),
    "a folder in the way of SSD_HOME": (home_is_a_file, "settings", "error", "is no folder; set SSD_HOME"),
    "a batch larger than the data": (
        prepared(train=20), "batch", "error", r"train\.batch_size is 32, but the training split has only 20 images"),
    "no training image": (prepared(train=0), "data", "error", r"training split is empty; see prepare\.train"),
    "nothing labelled": (
        prepared(boxes={"train": {"banana": 0}}), "data", "error", "no image of the training split has a box"),
    "epochs for a larger data set": (prepared(train=100), "epochs", "warning", "8 epochs of 100 images are 32 steps"),
    "epochs for a repeated data set": (
        prepared(train=16_551), "epochs", "warning", "8 epochs of 16551 images.*published SSDs see each"),
    "epochs without end": (params(train__epochs=2000), "epochs", "warning", "2000 epochs.*more than any published SSD"),
    "SGD's rate of another batch": (
        params(**SGD, train__lr=0.1), "learning rate", "warning", r"lr is 0\.1; usual for sgd .* 2\.0e-03; lower"),
    "AdamW with SGD's rate": (params(**ADAMW, train__lr=0.05), "learning rate", "warning", "usual for adamw"),
    "a rate that learns nothing": (params(train__lr=1e-6), "learning rate", "warning", "raise it in params.yaml"),
    "a warm-up longer than the training": (
        params(train__warmup_steps=500, tune__trials=0), "warm-up", "warning", "is 500, of 256 steps in all"),
    "no warm-up and no clipping": (
        params(train__warmup_steps=0, train__clip_norm=0.0), "warm-up", "warning", "are both 0.*infinite"),
    "files that nothing here can write": (
        both(params(registry__formats=["onnx"]), patched(parameters, "find_spec", None)), "formats", "error",
        r"registry\.formats needs onnx and onnxscript; `make setup`"),
    "classes that are others": (
        params(prepare__classes=["apple"]), "classes", "warning", "prepare.classes .* are not those of .*banana"),
    "a class without boxes": (
        prepared(classes=["banana", "pear"], boxes={"train": {"pear": 0}}), "classes", "warning", "no box of pear"),
    "a class that is rare": (
        prepared(classes=["banana", "pear"], boxes={"train": {"pear": 4}}), "classes", "warning",
        r"under 10 boxes in the training split: pear \(4\)"),
    "a search with nothing to compare on": (
        prepared(val=None), "search", "error",
        r"tune\.trials is 4, but the validation split has no boxes.*tune\.trials: 0"),
    "trials that end within the warm-up": (
        params(train__warmup_steps=64), "search", "warning", r"ends within train\.warmup_steps \(64\)"),
    "trials longer than the training": (params(tune__epochs=9), "search", "warning", "longer than the training of 8"),
    "a search without end": (params(tune__trials=200), "search", "warning", "up to 50 times the training"),
    "nothing to measure on": (prepared(test=None), "evaluation", "error", r"there is no test split.*prepare\.test"),
    "a report of boxes that were dropped": (
        params(evaluate__score_threshold=0.001), "evaluation", "warning", "is below detect.score_threshold 0.01"),
    "AP cut short": (params(detect__score_threshold=0.3), "evaluation", "warning", "AP counts boxes of low scores too"),
    "data that are gone": (without("data"), "data", "error", "neither is elsewhere, where it came.*import-url"),
    "no data at all": (
        both(without("data"), lambda project: (project.folder / "data.dvc").unlink()),
        "data", "error", "neither data/ nor data.dvc"),
    "a merge conflict": (merge("dvc.lock"), "DVC", "error", "dvc.lock: a merge conflict; resolve it, or `git checkout"),
    "a disk that holds the data, but no copy in DVC's cache": (
        both(without("data"), lambda project: project.write_yaml("data.dvc", LARGE)),
        "DVC's disk", "error", "50.0 GiB free, data need about 204.8 with DVC's cache; .*dvc cache dir"),
    "a copy without git": (without(".git"), "DVC", "error", "no git repository, which DVC wants; `git init`"),
    "no DVC repository": (without(".dvc"), "DVC", "error", "no DVC repository; run from the project's folder"),
    "a damaged tracking store": (damaged_store, "MLflow", "error", "mlflow.db: damaged .*move it away"),
    "no tracking store but a text": (
        lambda project: (machine.home() / "mlflow.db").write_text("x" * 5000),
        "MLflow", "error", "mlflow.db: damaged .file is not a database"),
    "a manifest that was edited": (changed_manifest, "prepared", "error", "run `dvc repro -f prepare`"),
}  # fmt: skip


def test_a_warm_up_that_auto_chose_is_shorter_in_trials(project):
    params(train__warmup_steps="auto")(project)
    project.patch.setitem(RULES, "train.warmup_steps", lambda *_: (64, "as long as a trial"))
    assert not wrong(examine(project.folder, quick=True))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_up_is_named_and_nothing_else(project, name):
    break_it, check, state, says = BROKEN[name]
    break_it(project)
    findings = guarded("settings", lambda: examine(project.folder, quick=True))
    assert set(wrong(findings)) == {(check, state)}, "\n".join(map(str, findings))
    assert re.search(says, "\n".join(str(f) for f in findings if f.state != "ok")), "\n".join(map(str, findings))


def test_a_good_set_up_has_nothing_wrong(project):
    findings = guarded("settings", lambda: examine(project.folder, quick=True))
    assert wrong(findings) == []
    assert {"parameters", "Python", "packages", "memory", "disk", "data", "epochs", "evaluation"} <= {
        finding.check for finding in findings
    }
