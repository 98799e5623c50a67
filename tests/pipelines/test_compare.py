"""An exported file beside the version that it was made of: the same numbers, and nothing else is changed."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.compare import main
from pipelines.evaluate.inference import decode_rows, detect_rows
from pipelines.evaluate.protocol import SPLIT
from pipelines.evaluate.versions import Benchmark, keep
from pipelines.params import load_stated
from pipelines.store.shards import read_manifest, read_records
from pipelines.tracking import runs
from ssd.prediction import Detector
from tests.conftest import TINY, add_version, write_params
from tests.pipelines.export.conftest import trained  # noqa: F401

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
pytest.importorskip("onnxruntime")


@pytest.fixture
def project(trained, tiny_prepared, tmp_path, empty_store, monkeypatch):  # noqa: F811
    """A registered version with its predictions on the test split, its ONNX file, and other settings in params.yaml."""
    from pipelines.export.__main__ import main as export

    monkeypatch.chdir(tmp_path)
    state = trained | {"detect": {"score_threshold": 0.05, "nms_iou": 0.3}, "calibration": [1.5, 0.7]}
    client = runs.connect()
    run = client.create_run(client.create_experiment("of its own")).info.run_id
    version = add_version(client, "ssd", state, tmp_path / "version", run)
    params = load_stated(write_params(tmp_path / "params.yaml", TINY | {"detect.score_threshold": 0.9}))
    manifest, detector = read_manifest(tiny_prepared), Detector(state)
    rows = pa.Table.from_batches(read_records(tiny_prepared, manifest, SPLIT))
    found = detect_rows(detector, decode_rows(rows, detector.model.config.image_size)).sort_by("image_id")
    test = Benchmark(tiny_prepared, manifest, detector.detect, params.evaluate.batch_size)
    keep(version.tags["ssd.sha256"], found, state, test)
    export(["1", "--to", "onnx", "--out", "it.onnx"])
    return tiny_prepared


def fails(*words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return str(ended.value.code)


@pytest.mark.slow
def test_the_file_has_the_version_s_numbers(project, own_home, capsys):
    capsys.readouterr()
    options = ["--prepared", str(project), "--params", "params.yaml"]
    main(["it.onnx", *options])
    said = capsys.readouterr().out
    first, second, images = re.search(
        r"AP (0\.\d{5}) against (0\.\d{5}), .* of ssd v1; .* on (\d+) images", said
    ).groups()
    assert float(first) > 0.2
    assert float(first) == pytest.approx(float(second), abs=1e-4)
    assert images == str(read_manifest(project).splits[SPLIT].images)
    page = own_home / "comparisons" / "ssd-it-v1.html"
    assert said.startswith(f"{page}: it.onnx: AP ")
    assert "<title>it.onnx beside ssd v1</title>" in page.read_text()
    assert "ssd v1 on the same images" not in said, "measured with the settings of the file, not of params.yaml"
    version = runs.connect().get_model_version("ssd", "1")
    assert set(version.tags) == {"ssd.sha256"}, "nothing is noted, nobody is promoted"
    assert version.aliases == []
    assert not Path("artifacts").exists()

    # one that mixes up its classes is told from the version
    import onnx

    model = onnx.load("it.onnx")
    about = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, about | {"ssd.class_names": json.dumps(["slot", "bar"])})
    onnx.save(model, "swapped.onnx")
    main(["swapped.onnx", "v1", "--out", "it.html", *options])
    first, second = re.search(r"AP (0\.\d{5}) against (0\.\d{5})", capsys.readouterr().out).groups()
    assert float(first) < float(second) - 0.2
    onnx.helper.set_model_props(model, about | {"ssd.weights_sha256": "0" * 64})
    onnx.save(model, "other.onnx")
    assert fails("other.onnx", *options).startswith("compare: no version of ssd with these weights (000000000000) at ")
    assert fails("1", *options).startswith("compare: 1 is compared with nothing; name two versions, or a file")
    assert fails("none.onnx", *options).startswith("compare: none.onnx: no such file")
