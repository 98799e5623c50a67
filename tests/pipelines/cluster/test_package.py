"""What travels to a cluster, and what stays."""

from pathlib import Path

import pytest

from pipelines.cluster import package
from pipelines.settings import ROOT


def test_code_and_small_inputs_travel_and_nothing_else(tmp_path, tiny_prepared):
    big = tmp_path / "in" / "weights.pt"
    big.parent.mkdir()
    big.write_bytes(bytes(package.SMALL + 1))
    packed = package.pack(ROOT, [tiny_prepared, ROOT / "params.yaml", big.parent], tmp_path / "packed")
    files = {path.relative_to(packed) for path in packed.rglob("*") if path.is_file()}
    assert package.path_in_package(tiny_prepared) / "manifest.json" in files
    assert {Path("ssd/model.py"), Path("pipelines/train/stage.py"), Path("pipelines/evaluate/report.html.j2")} <= files
    assert not [file for file in files if file.suffix in {".parquet", ".pyc", ".pt"}]
    assert not [file for file in files if "relabel" in file.parts]  # a tool that is never sent
    assert Path("pipelines/export/write.py") in files  # train writes what registry.formats asks for
    assert sum((packed / file).stat().st_size for file in files) < 5 << 18
    again = package.pack(ROOT, [tiny_prepared, ROOT / "params.yaml"], tmp_path / "again")
    assert package.digest(packed) == package.digest(again)
    (again / "params.yaml").write_text("seed: 1\n")
    assert package.digest(packed) != package.digest(again)


def test_what_a_stage_needs_travels_or_is_named(tmp_path, monkeypatch):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "manifest.json").write_bytes(b" " * (package.SMALL + 1))  # of a data set with many thousand shards
    (tmp_path / "tuned.yaml").write_bytes(b" " * (package.SMALL + 1))
    packed = package.pack(ROOT, [prepared, tmp_path / "tuned.yaml", tmp_path / "no-such-file"], tmp_path / "packed")
    for file in (
        package.path_in_package(prepared) / "manifest.json",
        package.path_in_package(tmp_path / "tuned.yaml"),
    ):
        assert (packed / file).stat().st_size == package.SMALL + 1
    monkeypatch.setattr(package, "NEEDED", package.SMALL)
    with pytest.raises(package.PackageError, match=r"manifest\.json: 1 MiB, at most 1 travel with a job"):
        package.pack(ROOT, [prepared], tmp_path / "again")


def test_paths_below_the_current_folder_keep_their_place():
    assert package.path_in_package(Path("artifacts/prepared")) == Path("artifacts/prepared")
    assert package.path_in_package(Path("/some/where/else/prepared")) == Path("elsewhere/else/prepared")


def test_paths_elsewhere_do_not_leave_the_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert package.path_in_package(Path("../prepared")) == Path("elsewhere", tmp_path.parent.name, "prepared")


def test_addresses_travel_and_secrets_stay(monkeypatch):
    given = {
        "STORAGE_URI": "s3://bucket/a",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "secret",
        "AWS_SOMETHING_NEW": "secret",
        "MLFLOW_TRACKING_PASSWORD": "secret",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret",
        "MLFLOW_BACKEND_STORE_URI": "secret",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "RAY_ADDRESS": "http://head:8265",
        "RAY_AUTH_TOKEN": "secret",
        "SSD_CACHE_GIB": "7",
        "SSD_PROVENANCE": "of another job",
        "SSD_HOME": "/of/this/machine",
        "SSD_WORKERS": "3",
        "SSD_JOB_AWS_ENDPOINT_URL": "http://s3:9000",
        "SSD_JOB_SSD_HOME": "/of/the/nodes",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    travels = package.variables()
    assert {"RAY_ADDRESS", "SSD_CACHE_GIB", "SSD_PROVENANCE"}.isdisjoint(travels)
    assert travels["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert "secret" not in travels.values()
    assert not [name for name in travels if name.startswith("SSD_JOB_")]
    chosen = {name: travels[name] for name in ("STORAGE_URI", "AWS_ENDPOINT_URL", "SSD_HOME", "SSD_WORKERS")}
    assert chosen == {
        "STORAGE_URI": "s3://bucket/a",
        "AWS_ENDPOINT_URL": "http://s3:9000",
        "SSD_HOME": "/of/the/nodes",
        "SSD_WORKERS": "3",
    }


@pytest.mark.parametrize("address", ["http://me:secret@mlflow:5000", "http://secret@mlflow:5000", "http://m/?k=secret"])
def test_an_address_with_a_password_does_not_travel(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(package.PackageError, match="give the address without, and MLFLOW_TRACKING_USERNAME") as caught:
        package.variables()
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("SSD_JOB_MLFLOW_TRACKING_URI", "http://mlflow:5000")  # as the nodes see it
    assert package.variables()["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
