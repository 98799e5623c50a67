import json
import shutil

import pytest

from pipelines.layouts import parquet
from pipelines.layouts.files import Files
from pipelines.layouts.listing import DataError
from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import VISIBILITY, read_boxes
from tests.pipelines.layouts.trees import good, lenient, voc_xml, write_voc


@pytest.fixture
def shards(tmp_path):
    """Prepared data of 22 photographs in several shards."""
    photos = {**good(20), "none": voc_xml(), "two": voc_xml(("elk", 1, 1, 30, 20, 1), ("cat", 5, 7, 5, 7))}
    photos["p001"] = photos["p001"].replace("<name>", "<truncated>1</truncated><occluded>1</occluded><name>", 1)
    write_voc(tmp_path / "raw", photos)
    manifest, _ = prepare(tmp_path / "raw", tmp_path / "data", PrepareParams(shard_mib=0.0005), 3)
    assert sum(len(split.shards) for split in manifest.splits.values()) > 4
    return manifest


@pytest.mark.parametrize("below", ["", "prepared"])
def test_shards_prepared_again_are_the_same_shards(tmp_path, shards, below):
    shutil.copytree(tmp_path / "data", tmp_path / "in" / below)
    again, rejected = prepare(tmp_path / "in", tmp_path / "out", PrepareParams(shard_mib=0.0005), 3)
    assert (again.layout, rejected) == ("parquet", [])
    assert (again.classes, again.splits) == (shards.classes, shards.splits)
    assert again.digest == shards.digest


def test_another_seed_and_size_of_shards_keep_every_row(tmp_path, shards):
    again, _ = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 4)
    for split in ("train", "val", "test"):
        before, after = ({r["image_id"]: r for r in read_boxes(tmp_path / folder, manifest, split, VISIBILITY)}
                         for folder, manifest in (("data", shards), ("out", again)))  # fmt: skip
        assert before == after


def test_classes_of_params_give_new_labels(tmp_path, shards):
    again, rejected = prepare(tmp_path / "data", tmp_path / "out", lenient(classes=["elk", "owl", "cat"]), 3)
    assert rejected == []
    rows = {row["image_id"]: row for split in again.splits for row in read_boxes(tmp_path / "out", again, split)}
    assert (rows["two"]["labels"], rows["two"]["difficult"]) == ([1, 3], [True, False])
    assert rows["p000"]["labels"] == [3]


def test_few_row_groups_are_kept(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(parquet, "KEPT", 1)
    again, _ = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(shard_mib=0.0005), 3)
    assert again.digest == shards.digest


def damage(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: damage(next(folder.glob("train/*"))), "SHA-256 differs"),
        (lambda folder: next(folder.glob("val/*")).unlink(), "no such file"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json beside it"),
    ],
)
def test_what_is_not_whole_is_one_error(tmp_path, shards, spoil, reason):
    spoil(tmp_path / "data")
    with pytest.raises(DataError, match=reason):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 3)


def test_two_prepared_sets_are_not_taken_for_one(tmp_path, shards):
    for name in ("a", "b"):
        shutil.copytree(tmp_path / "data", tmp_path / "in" / name)
    with pytest.raises(DataError, match=r"a/manifest.json, b/manifest.json; import one"):
        prepare(tmp_path / "in", tmp_path / "out", PrepareParams(), 3)


def test_a_changed_manifest_is_refused(tmp_path, shards):
    file = tmp_path / "data" / "manifest.json"
    content = json.loads(file.read_text())
    content["classes"].reverse()
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="its digest is another; copy the folder again"):
        parquet.list_photos(Files(tmp_path / "data"), [])
