"""What tasks and actors do with a part, without Ray; and that their code reaches other machines."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import ExifTags, Image

from pipelines.cluster import package
from pipelines.score import detect
from pipelines.score.detect import BATCH, DetectPhotographs, detect_batch, read_part, send_code_along, whole_parts
from pipelines.score.source import list_source
from pipelines.settings import ROOT
from ssd.checkpoint import model_state
from ssd.images import decode
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from ssd.tiles import TileConfig
from tests.pipelines.score.conftest import draw


def detector_of(config):
    torch.manual_seed(0)
    return Detector(model_state(SSD(config, 2), ["x", "y"]) | {"thresholds": [0.34, 0.34], "calibration": [1.2, 0.1]})


def batches(folder, config, part=3):
    listing, filesystem = list_source(str(folder), folder / "out")
    rows = listing.append_column("part", pa.array([part] * len(listing), pa.int64()))
    return list(read_part(rows, filesystem, config))


@pytest.mark.parametrize("tile", ["none", TileConfig((64, 64))], ids=["whole", "tiles"])
@pytest.mark.parametrize("lowest", [None, 0.325])
def test_a_part_gives_what_predict_finds(tmp_path, tile, lowest):
    draw(tmp_path, 5)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(tmp_path / "000.jpg").save(tmp_path / "phone.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    detector = detector_of(ModelConfig(image_size=(64, 64), tile=tile))
    rows = [row for batch in batches(tmp_path, detector.model.config) for row in answers(detector, batch, lowest)]
    assert [row["file"] for row in rows] == list_source(str(tmp_path), tmp_path / "out").listing["file"].to_pylist()
    assert [row["error"] for row in rows if row["error"]] == ["cannot be decoded: no image, or one of an unknown kind"]
    found = 0
    for row in rows:
        if row["error"] is None:
            image = decode((tmp_path / row["file"]).read_bytes())
            (one,) = detector.predict_likely([image], lowest)
            assert (row["height"], row["width"]) == image.shape[-2:]
            assert row["labels"] == one.labels.tolist()
            assert row["classes"] == detector.names(one.labels)
            np.testing.assert_allclose(row["scores"], one.scores, atol=1e-5)
            np.testing.assert_allclose(np.array(row["boxes"]).reshape(-1, 4), one.boxes, atol=1e-3)
            found += len(one.labels)
    assert found > 6


def answers(detector, batch, lowest=None):
    return detect_batch(detector, batch, lowest).to_pylist()


def test_a_batch_without_a_photograph_that_can_be_read(tmp_path):
    for number in range(BATCH + 1):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"no image")
    detector = detector_of(ModelConfig(image_size=(64, 64)))
    full, rest = batches(tmp_path, detector.model.config)
    assert [len(answers(detector, batch)) for batch in (full, rest)] == [BATCH, 1]
    assert (int(full["part"][0]), int(full["start"][0]), int(rest["start"][0])) == (3, 0, BATCH)
    assert json.loads(str(rest["facts"][0]))[0]["file"] == f"{BATCH}.jpg"


def test_parts_are_put_together_from_batches_in_any_order():
    places = detect.RESULTS.append(pa.field("part", pa.int64())).append(pa.field("start", pa.int64()))

    def batch(part, start, count):
        rows = [{"file": f"{part}/{start + i}", "part": part, "start": start} for i in range(count)]
        return pa.Table.from_pylist(rows, schema=places)

    several = pa.concat_tables([batch(1, 2, 1), batch(0, 0, 2)])  # Ray may put two answers into one block
    parts = dict(whole_parts([batch(1, 0, 2), several, batch(0, 2, 2)], 4, 7))
    assert {part: table["file"].to_pylist() for part, table in parts.items()} == {
        1: ["1/0", "1/1", "1/2"],
        0: ["0/0", "0/1", "0/2", "0/3"],
    }
    assert next(iter(parts.values())).schema == detect.RESULTS


@pytest.mark.slow
def test_the_code_of_tasks_and_actors_comes_along_where_its_files_do_not(tmp_path):
    """On a cluster there are the files of `package.pack`, and `pipelines/score` is none of them."""
    import ray.cloudpickle

    packed = package.pack(ROOT, [], tmp_path / "packed")
    assert not (packed / "pipelines/score").exists()
    send_code_along()
    (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps((read_part, DetectPhotographs)))
    script = f"import ray.cloudpickle; print(ray.cloudpickle.loads(open({str(tmp_path / 'sent')!r}, 'rb').read()))"
    environment = os.environ | {"PYTHONPATH": str(packed)}
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=packed, env=environment, capture_output=True, text=True, timeout=120)
    assert "read_part" in done.stdout, done.stderr
