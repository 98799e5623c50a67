"""Prepared data small enough for every test, and a home of its own for each test's runs."""

import contextlib
import copy
import functools
import gc
import itertools
import json
import os
import sqlite3
import tempfile
import uuid
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes of two threads each on two cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

ROOT = Path(__file__).parents[1]
BCCD = ROOT.parent / "shared" / "datasets" / "bccd" / "VOCdevkit"  # real photographs, beside some checkouts
long_test = pytest.mark.skipif(not os.environ.get("TEST_LONG"), reason="takes minutes: set TEST_LONG=1")
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason="needs BCCD in ../shared/datasets/bccd/VOCdevkit")


LONGEST = (
    "tests/test_dvc.py",
    "tests/test_chaos.py",
    "tune/test_stage.py",
    "pipelines/train/test_stage.py",
    "tests/test_mlflow_server.py",
    "train/test_main.py",
    "train/test_presets.py",
    "evaluate/test_stage.py",
    "seeds/test_repeat.py",
    "tests/test_network.py",
    "verify/test_verify.py",
    "recipe/test_forty.py",
    "score/test_run.py",
    "serving/test_application.py",
    "relabel/test_main.py",
    "training/test_workers.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: whole files are dealt to the processes, and no one shall come last."""
    ranks = {file: rank for rank, file in enumerate(LONGEST)}
    items.sort(key=lambda item: next((ranks[f] for f in LONGEST if str(item.path).endswith(f)), len(LONGEST)))


def pytest_collection():
    """Import without garbage collection: a quarter of the time went into looking through what stays anyway."""
    gc.disable()


def pytest_collection_finish():
    """Leave what was imported, a million objects, out of all later collections."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    """Let the interpreter take down what was imported."""
    gc.unfreeze()


def draw_voc(folder, count, seed=0, size=(60, 90)):
    """VOC data of bright rectangles (class `bar`) and dark ones (`slot`) on grey; every tenth image is empty."""
    rng = np.random.default_rng(seed)
    for part in ("Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    height, width = size
    for index in range(count):
        pixels = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        objects = ""
        for _ in range(0 if index % 10 == 9 else rng.integers(1, 3)):
            name, value = ("bar", 240) if rng.random() < 0.5 else ("slot", 10)
            h, w = rng.integers(15, 30, 2)
            top, left = rng.integers(0, height - h), rng.integers(0, width - w)
            pixels[top : top + h, left : left + w] = value
            objects += (
                f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
                f"<ymin>{top + 1}</ymin><xmax>{left + w}</xmax><ymax>{top + h}</ymax></bndbox></object>"
            )
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{index:04d}.png")
        (folder / "Annotations" / f"{index:04d}.xml").write_text(
            f"<annotation><filename>{index:04d}.png</filename><size><width>{width}</width><height>{height}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )


FIXED = {  # in place of `auto`, what fits the generated data
    "prepare": {"val_share": 0.1, "test_share": 0.2},
    "model": {"preset": "tiny_fine"},
    "augment": {"horizontal_flip": 0.5},
    "train": {"epochs": 8, "batch_size": 32, "lr": 2.0e-3, "warmup_steps": 30, "ema_decay": 0.99, "precision": "bf16"},
    "tune": {"trials": 4, "epochs": 2, "grace_epochs": 1},
    "evaluate": {"score_threshold": 0.5},
}


@functools.cache
def _stated_params():
    import yaml

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, part in params.items():
        if isinstance(part, dict):
            stated = {key: value for key, value in part.items() if value != "auto" or key == "layout"}
            params[name] = stated | FIXED.get(name, {})
    return params


def write_params(path, changes):
    """The repository's params.yaml with nothing left to the data, and with changes by dotted names."""
    import yaml  # the tests of ssd/ run where there is none

    params = copy.deepcopy(_stated_params())
    for name, value in changes.items():
        *parents, last = name.split(".")
        section = params
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value
    path.write_text(yaml.safe_dump(params))
    return path


TINY = {
    "model.image_size": [64, 96],
    "model.anchors.scale_min": 0.2,
    "model.anchors.scale_max": 0.6,
    "prepare.val_share": 0.2,
    "prepare.test_share": 0.2,
    "train.epochs": 3,
    "train.batch_size": 8,
    "train.warmup_steps": 2,
    "train.precision": "fp32",
    "tune": {"trials": 0},
}


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory):
    """Prepared shards of 40 small photographs with train, val and test splits."""
    from pipelines.params import load_params
    from pipelines.prepare.stage import prepare

    folder = tmp_path_factory.mktemp("tiny")
    draw_voc(folder / "raw", 40)
    params = load_params(write_params(folder / "params.yaml", TINY))
    prepare(folder / "raw", folder / "prepared", params.prepare, params.seed)
    assert set(json.loads((folder / "prepared" / "manifest.json").read_text())["splits"]) == {"train", "val", "test"}
    return folder / "prepared"


@pytest.fixture
def tiny_params(tmp_path):
    """Parameters that train on `tiny_prepared` within seconds."""
    from pipelines.params import load_params

    return load_params(write_params(tmp_path / "params.yaml", TINY))


@pytest.fixture(scope="module")
def kept_cluster():
    """Address of a Ray cluster of one node that outlives the stages in a file of tests; starting one takes seconds."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def on_kept_cluster(kept_cluster, own_home, monkeypatch):
    """Stages of this test connect to the kept cluster, where starting and ending Ray is not what is tested."""
    monkeypatch.setenv("RAY_ADDRESS", kept_cluster)


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Folders of their own, one after the other; pytest's own way looks through all of thousands for each."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_home(homes, monkeypatch):
    """Runs, caches and the MLflow store of a test go into a folder of its own."""
    chosen = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS", "SSD_WORKERS", "DVC_ROOT", "STORAGE_URI")
    for name in chosen:
        monkeypatch.delenv(name, raising=False)
    folder = next(homes)
    folder.mkdir()
    monkeypatch.setenv("SSD_HOME", str(folder))
    yield folder
    for name in chosen:  # MLflow leaves its address there, and fixtures of modules start before this one
        os.environ.pop(name, None)


@functools.cache
def _empty_store():
    """The bytes of MLflow's SQLite store as MLflow makes it: all tables, after a hundred migrations."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments(max_results=1)
        with sqlite3.connect(file) as store:
            return store.serialize()


def put_empty_store(home):
    """Put an MLflow store without runs there if there is none; making one takes MLflow seconds."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "mlflow.db").exists():
        (home / "mlflow.db").write_bytes(_empty_store())


@pytest.fixture
def empty_store(own_home):
    """An MLflow store without runs in the home of this test."""
    put_empty_store(own_home)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Ceph's S3 gateway; skips where Ceph is not installed."""
    from infra.local.ceph import Ceph, missing

    if lacking := missing():
        pytest.skip(f"no S3 server: {', '.join(lacking)} not installed (apt-get install radosgw ceph-mon ceph-osd)")
    server = Ceph(tmp_path_factory.mktemp("ceph") / "ceph").start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A bucket of its own as STORAGE_URI, with the variables that clients read; returns those."""
    from pipelines.store.s3 import ObjectStore

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:8]}"
    ObjectStore(f"s3://{bucket}").client.create_bucket(Bucket=bucket)
    monkeypatch.setenv("STORAGE_URI", f"s3://{bucket}/some/prefix")
    return {**s3_server.environment, "STORAGE_URI": f"s3://{bucket}/some/prefix"}


def add_version(client, name, state, folder, run_id=None):
    """Make a model's state a version of a registered model, as its weights file in a folder; the version."""
    from mlflow.exceptions import MlflowException

    from pipelines.tracking.registry import SHA256, sha256
    from ssd.checkpoint import save

    (folder / "artifacts").mkdir(parents=True)
    save(state, folder / "artifacts" / "model.pt")
    with contextlib.suppress(MlflowException):  # it is there
        client.create_registered_model(name)
    tags = {SHA256: sha256(folder / "artifacts" / "model.pt")}
    return client.create_model_version(name, folder.as_uri(), run_id, tags=tags)
