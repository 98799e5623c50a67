import io
import os
import shutil
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import ShardError, read_manifest
from pipelines.training import decoded
from pipelines.training.batches import DecodedSplit
from pipelines.training.decoded import decoded_shards
from tests.conftest import ROOT
from tests.pipelines.layouts.trees import good, voc_xml, write_voc
from tests.small_disk import run_on_small_disk


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """30 photographs of 20 × 30 pixels in several shards of each split."""
    folder = tmp_path_factory.mktemp("prepared")
    write_voc(folder / "data", good(30))
    prepare(folder / "data", folder / "out", PrepareParams(shard_mib=0.0006), 0)
    return folder / "out"


def shards_of(prepared, split="train"):
    return read_manifest(prepared).splits[split].shards


def names(folder):
    return {path.name for path in folder.glob("*.npy")}


def test_decodes_once_and_shares(prepared, tmp_path):
    shards = shards_of(prepared)
    pixels = decoded_shards(prepared, shards, (64, 96), tmp_path)
    assert [len(array) for array in pixels] == [shard.rows for shard in shards]
    assert {image.shape for shard in pixels for image in shard} == {(3, 64, 96)}
    made = {path: path.stat().st_ino for path in tmp_path.glob("*.npy")}
    threads = [threading.Thread(target=decoded_shards, args=(prepared, shards, (64, 96), tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path: path.stat().st_ino for path in tmp_path.glob("*.npy")} == made


def test_what_a_killed_process_left_is_removed(prepared, tmp_path):
    (tmp_path / "0123-64x64.partial").write_bytes(b"half")
    decoded_shards(prepared, shards_of(prepared), (64, 64), tmp_path)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("version", ["PIL", "torchvision", "code"])
def test_another_decoder_gets_pixels_of_its_own(prepared, tmp_path, monkeypatch, version):
    shards = shards_of(prepared)
    decoded_shards(prepared, shards, (64, 64), tmp_path / "cache")
    before = names(tmp_path / "cache")
    if version == "code":
        (tmp_path / "images.py").write_text("# decodes otherwise")
        monkeypatch.setattr(decoded.ssd.images, "__file__", str(tmp_path / "images.py"))
    else:
        monkeypatch.setattr(getattr(decoded, version), "__version__", "99.0")
    decoded._decoder.cache_clear()
    try:
        decoded_shards(prepared, shards, (64, 64), tmp_path / "cache")
    finally:
        decoded._decoder.cache_clear()
    assert len(names(tmp_path / "cache")) == 2 * len(before)


def test_what_was_not_used_for_longest_goes_first(prepared, tmp_path, monkeypatch):
    shards = shards_of(prepared)
    assert len(shards) > 2
    bytes_of = sum(shard.rows for shard in shards) * 3 * 64 * 64 + 128 * len(shards)
    for number, size in enumerate([(64, 64), (32, 128), (128, 32)]):  # equally many bytes
        decoded_shards(prepared, shards, size, tmp_path)
        for file in names(tmp_path):
            if f"-{size[0]}x{size[1]}-" in file:
                os.utime(tmp_path / file, (number, number))
    monkeypatch.setenv("SSD_CACHE_GIB", str(3.01 * bytes_of / (1 << 30)))
    first = decoded_shards(prepared, shards, (64, 64), tmp_path)  # used now: the second is the oldest
    decoded_shards(prepared, shards, (16, 256), tmp_path)
    left = {name.split("-")[1] for name in names(tmp_path)}
    assert left == {"64x64", "128x32", "16x256"}
    monkeypatch.setenv("SSD_CACHE_GIB", str(0.5 * bytes_of / (1 << 30)))  # less than this split takes: it is kept
    decoded_shards(prepared, shards, (256, 16), tmp_path)
    assert {name.split("-")[1] for name in names(tmp_path)} == {"256x16"}
    assert len(names(tmp_path)) == len(shards)
    assert first[0][0].sum() > 0  # a map of a removed file stays what it was


def test_a_damaged_shard_is_named(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "prepared")
    shard = shards_of(prepared)[0]
    path = tmp_path / "prepared" / shard.path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ShardError, match=rf"{shard.path}: not what was prepared"):
        decoded_shards(tmp_path / "prepared", [shard], (64, 64), tmp_path / "cache")


def test_pixels_are_of_the_view_that_the_record_says(tmp_path):
    year = write_voc(tmp_path / "data", {**good(3), "phone": None})
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = 255  # the left half as stored: the top when it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    (year / "JPEGImages" / "phone.png").write_bytes(buffer.getvalue())
    for height, width, bright in ((30, 20, np.s_[:, :32]), (20, 30, np.s_[:, :, :32])):
        (year / "Annotations" / "phone.xml").write_text(voc_xml(("cat", 2, 3, 11, 8), height=height, width=width))
        out = tmp_path / f"{height}"
        prepare(tmp_path / "data", out, PrepareParams(val_share=0.0, test_share=0.0), 0)
        split = DecodedSplit(out, read_manifest(out), "train", (64, 64), tmp_path / "cache" / f"{height}")
        (index,) = (i for i, sample in enumerate(split.samples) if sample.image_id == "phone")
        assert (split.samples[index].height, split.samples[index].width) == (height, width)
        image = split.image(index)
        assert image[bright].float().mean() > 240
        assert image.float().mean() < 140


@pytest.mark.slow
def test_a_full_disk_is_a_line_with_the_fix_and_not_a_sigbus(prepared, tmp_path):
    script = """
import sys
from pathlib import Path
from pipelines.errors import UserError
from pipelines.store.shards import ShardError, read_manifest
from pipelines.training.decoded import decoded_shards
prepared, cache = map(Path, sys.argv[1:])
try:
    decoded_shards(prepared, read_manifest(prepared).splits["train"].shards, (256, 256), cache / "cache")
except UserError as error:
    sys.exit(str(error))
"""
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", script, str(prepared), str(tmp_path / "home")]
    done = run_on_small_disk(tmp_path / "home", "500k", command, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1, done.stderr
    assert "no room for 2 MiB of decoded images; free some, lower SSD_CACHE_GIB or augment.source, or" in done.stderr
    assert done.stdout.strip() == ""  # no file is left that looks finished
