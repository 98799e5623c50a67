"""A folder of results belongs to one source, one model and one set of settings."""

import os
import re
import shutil

import pytest

from pipelines.score.manifest import ManifestError, begin, clear, missing_parts, part_file
from pipelines.score.results import write_errors
from tests.pipelines.score.conftest import begun, draw, results_of


def test_the_same_again_goes_on_with_the_missing_parts(tmp_path):
    draw(tmp_path / "photos", 5)
    _, manifest = begun(tmp_path / "photos", tmp_path / "out")
    assert (manifest.parts, missing_parts(tmp_path / "out", manifest)) == (3, [0, 1, 2])
    part_file(tmp_path / "out", 1).write_bytes(b"whole")
    (tmp_path / "out/parts/.part-00002.parquet.partial").write_bytes(b"killed while it was written")
    _, again = begun(tmp_path / "photos", tmp_path / "out", model="model.pt")  # the same weights by another name
    assert missing_parts(tmp_path / "out", again) == [0, 2]


def change(path):
    stamp = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(stamp, stamp + 1))


@pytest.mark.parametrize(
    ("act", "options", "says"),
    [
        (lambda p: change(p / "000.jpg"), {}, r"photos is another now: 1 changed \(000.jpg\)"),
        (lambda p: (p / "001.png").unlink(), {}, r"photos is another now: 1 missing \(001.png\)"),
        (lambda p: draw(p / "more", 2), {}, r"photos is another now: 2 new \(more/000.jpg\)"),
        (None, {"weights": "1" * 64}, r"begun with models:/ssd/3 \(000000000000\).*; go on with --model models:/ssd/3"),
        (None, {"score": 0.3}, "begun with --score of each class, and now it is 0.3"),
        (None, {"part": 3}, "begun with --part 2, and now it is 3"),
        (None, {"code": "d" * 64}, r"begun with other code \(\w{12}, now d{12}\), .*; go on with the commit of then"),
    ],
)
def test_what_differs_is_refused_and_named_or_replaced(tmp_path, capsys, act, options, says):
    draw(tmp_path / "photos", 3)
    begun(tmp_path / "photos", tmp_path / "out")
    if act:
        act(tmp_path / "photos")
    part_file(tmp_path / "out", 0).write_bytes(b"whole")
    with pytest.raises(ManifestError, match=f"{says}.*; add --replace"):
        begun(tmp_path / "photos", tmp_path / "out", **options)
    assert part_file(tmp_path / "out", 0).exists()
    _, now = begun(tmp_path / "photos", tmp_path / "out", earlier="replace", **options)
    said = capsys.readouterr().out
    assert re.search(f"{says.partition(';')[0]}.*: replaced$", said.strip())
    assert "go on with" not in said
    assert missing_parts(tmp_path / "out", now) == list(range(now.parts))
    part_file(tmp_path / "out", 0).write_bytes(b"whole")
    begun(tmp_path / "photos", tmp_path / "out", earlier="replace", **options)  # its own are gone on with
    assert part_file(tmp_path / "out", 0).exists()


def test_finished_results_need_no_code(tmp_path):
    draw(tmp_path / "photos", 2)
    begun(tmp_path / "photos", tmp_path / "out", [results_of("a", 9, 9, [])] * 2)
    begun(tmp_path / "photos", tmp_path / "out", code="d" * 64)


def test_a_folder_that_moved_goes_on(tmp_path):
    draw(tmp_path / "photos", 3)
    begun(tmp_path / "photos", tmp_path / "out")
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    begun(tmp_path / "elsewhere", tmp_path / "out")


def test_fresh_forgets_and_takes_nothing_of_others(tmp_path):
    draw(tmp_path / "photos", 2)
    source, manifest = begun(tmp_path / "photos", tmp_path / "out", [results_of("a", 9, 9, [])] * 2)
    write_errors(tmp_path / "out", manifest)
    other = manifest.model_copy(update={"score": 0.9})
    begin(tmp_path / "out", other, source.listing, "forget")
    assert missing_parts(tmp_path / "out", other) == [0]
    assert not (tmp_path / "out/errors.csv").exists()
    (tmp_path / "out/thesis.tex").write_text("mine")
    for earlier in ("keep", "replace", "forget"):
        with pytest.raises(ManifestError, match=r"'thesis.tex' is in it, which `score` did not write"):
            begin(tmp_path / "out", manifest, source.listing, earlier)


def test_a_kill_while_earlier_results_are_removed_leaves_none_of_them(tmp_path, monkeypatch):
    draw(tmp_path / "photos", 2)
    source, manifest = begun(tmp_path / "photos", tmp_path / "out", [results_of("a", 9, 9, [])] * 2)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        clear(tmp_path / "out")
    monkeypatch.undo()
    begin(tmp_path / "out", manifest.model_copy(update={"score": 0.9}), source.listing, "keep")
    assert missing_parts(tmp_path / "out", manifest) == [0], "parts of the other score must not stay"


def test_a_manifest_of_another_kind_is_refused(tmp_path):
    draw(tmp_path / "photos", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text('{"version": 9}')
    with pytest.raises(ManifestError, match="not written by this version of `score`; add --replace"):
        begun(tmp_path / "photos", tmp_path / "out")
