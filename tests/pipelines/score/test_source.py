"""What there is to score, and how it is read."""

import io
import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from pipelines.score.photographs import SourceError, read_photographs
from pipelines.score.source import list_source
from ssd.images import decode
from tests.pipelines.score.conftest import draw


def files(source):
    return source.listing["file"].to_pylist()


def contents(source):
    return [encoded.content for encoded in read_photographs(source.listing, source.filesystem)]


def jpeg(size=(30, 20), **options):
    Image.new("RGB", size, "red").save(buffer := io.BytesIO(), "JPEG", **options)
    return buffer.getvalue()


def test_a_folder_a_glob_and_a_file(tmp_path):
    draw(tmp_path / "photos", 4)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    folder = list_source(str(tmp_path / "photos"), tmp_path / "out")
    assert files(folder) == ["000.jpg", "001.png", "003.png", "below/002.jpg"]
    assert contents(folder)[3] == (tmp_path / "photos/below/002.jpg").read_bytes()
    glob = list_source(str(tmp_path / "photos/**/*.jpg"), tmp_path / "out")
    assert files(glob) == ["000.jpg", "below/002.jpg"]
    assert files(list_source(str(tmp_path / "photos/001.png"), tmp_path / "out")) == ["001.png"]


def test_results_inside_the_source_are_none_of_it(tmp_path):
    draw(tmp_path, 2)
    draw(tmp_path / "out" / "voc" / "JPEGImages", 2)
    assert files(list_source(str(tmp_path), tmp_path / "out")) == ["000.jpg", "001.png"]


def test_names_whose_labels_would_share_a_file_are_numbered(tmp_path):
    for name in ("a.jpg", "a.png", "a~2.jpg", "b/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = list_source(str(tmp_path), tmp_path / "out")
    assert files(source) == ["a.jpg", "a~2.png", "a~2~2.jpg", "b/a.jpg"]
    assert contents(source) == [b"a.jpg", b"a.png", b"a~2.jpg", b"b/a.jpg"]


@pytest.mark.parametrize("nothing", ["missing", "empty", "*.gif", "notes.txt"])
def test_nothing_to_score_is_said(tmp_path, nothing):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match=r"no such file|no photographs there"):
        list_source(str(tmp_path / nothing), tmp_path / "out")


def test_our_own_parquet_opens_with_its_names_and_its_view_of_exif(tmp_path, tiny_prepared):
    source = list_source(str(tiny_prepared / "test"), tmp_path)
    table = pq.read_table(sorted((tiny_prepared / "test").glob("*.parquet")))
    assert files(source) == [row["path"] for row in table["image"].to_pylist()]
    assert contents(source) == [row["bytes"] for row in table["image"].to_pylist()]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = jpeg(exif=exif)  # 20 high and 30 wide as it is stored; its record says that it was labelled so
    rows = {"image_id": ["a"], "image": [{"bytes": turned, "path": "a.jpg"}], "height": [20], "width": [30]}
    pq.write_table(pa.table(rows), tmp_path / "one.parquet")
    (encoded,) = read_photographs(*list_source(str(tmp_path / "one.parquet"), tmp_path / "out"))
    assert decode(encoded.content, encoded.size).shape == (3, 20, 30)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"image": [{"bytes": b"0", "path": "x/a.jpg"}, {"bytes": b"1", "path": "x/b.jpg"}]}, ["x/a.jpg", "x/b.jpg"]),
        ({"image": [{"bytes": b"0", "path": None}, {"bytes": b"1", "path": None}]}, ["p/000000", "p/000001"]),
        ({"jpg": [b"0", b"1"], "mask": [b"x", b"y"]}, ["p/000000", "p/000001"]),
        ({"label": [b"0", b"1"], "file_name": ["../../a", "/b.png"]}, ["a", "b.png"]),
    ],
)
def test_parquet_of_image_bytes(tmp_path, columns, names):
    pq.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=1)
    source = list_source(str(tmp_path), tmp_path / "out")
    assert files(source) == names
    assert contents(source) == [b"0", b"1"]
    later = source._replace(listing=source.listing.slice(1))
    assert contents(later) == [b"1"]


def test_parquet_without_images_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "p.parquet")
    with pytest.raises(SourceError, match=r"p.parquet: no column with encoded images"):
        list_source(str(tmp_path), tmp_path / "out")
    (tmp_path / "p.parquet").write_bytes(b"half a file")
    with pytest.raises(SourceError, match=r"p.parquet: not a whole Parquet file"):
        list_source(str(tmp_path), tmp_path / "out")


def test_what_is_gone_or_changed_since_it_was_listed_costs_that_photograph_alone(tmp_path):
    draw(tmp_path / "photos", 3)
    source = list_source(str(tmp_path / "photos"), tmp_path / "out")
    (tmp_path / "photos/000.jpg").unlink()
    (tmp_path / "photos/001.png").write_bytes(b"shorter")
    gone, changed, fine = read_photographs(source.listing, source.filesystem)
    assert gone.problem == "cannot be read: No such file or directory"
    assert changed.problem == "it was changed while it was scored"
    assert (fine.content, fine.problem) == ((tmp_path / "photos/below/002.jpg").read_bytes(), "")


def test_a_name_that_is_no_text_costs_that_photograph_alone(tmp_path):
    draw(tmp_path / "photos", 1)
    (tmp_path / "photos" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg())
    fine, bad = read_photographs(*(source := list_source(str(tmp_path / "photos"), tmp_path / "out")))
    assert files(source) == ["000.jpg", "caf?.jpg"]
    assert (fine.problem, bad.problem) == ("", "its name is not UTF-8; rename it")


@pytest.mark.slow
def test_folders_objects_and_parquet_in_s3(tmp_path, s3):
    from pipelines.store.s3 import object_store

    objects, out = object_store(), tmp_path / "out"
    draw(tmp_path / "photos", 4)
    for path in (tmp_path / "photos").rglob("*.*"):
        objects.upload(path, f"photos/{path.relative_to(tmp_path / 'photos')}")
    pq.write_table(pa.table({"image": [b"0", b"1"]}), tmp_path / "p.parquet")
    objects.upload(tmp_path / "p.parquet", "packed/p.parquet")
    here, there = (
        list_source(str(tmp_path / "photos"), out),
        list_source(f"{objects.uri}/photos/", out),
    )
    assert files(there) == files(here)
    sent = there._replace(filesystem=pickle.loads(pickle.dumps(there.filesystem)))  # as Ray does
    assert contents(sent) == contents(here)
    assert files(list_source(f"{objects.uri}/photos/*.jpg", out)) == ["000.jpg", "below/002.jpg"]
    assert files(list_source(f"{objects.uri}/photos/001.png", out)) == ["001.png"]
    assert contents(list_source(f"{objects.uri}/packed", out)) == [b"0", b"1"]
    states = there.listing["state"].to_pylist()
    (tmp_path / "photos/000.jpg").write_bytes(b"x" * (tmp_path / "photos/000.jpg").stat().st_size)
    objects.upload(tmp_path / "photos/000.jpg", "photos/000.jpg")
    again = list_source(f"{objects.uri}/photos", out).listing["state"].to_pylist()
    assert [one == other for one, other in zip(states, again)] == [False, True, True, True]
    with pytest.raises(SourceError, match="no photographs there"):
        list_source(f"{objects.uri}/nothing", out)
