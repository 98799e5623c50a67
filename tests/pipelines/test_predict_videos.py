"""The command line for videos, streams and cameras."""

import functools
import http.server
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from pipelines.live import show_progress
from pipelines.predict.__main__ import main
from pipelines.predict.sources import Selection, is_video, stem_of
from pipelines.predict.videos import Frames
from ssd.checkpoint import model_state, save
from ssd.model import SSD, ModelConfig

WIDTH, HEIGHT, RATE, FRAMES = 96, 64, 10, 30
ROOT = Path(__file__).parents[2]


def write_video(path, frames=FRAMES, size=(WIDTH, HEIGHT), codec="libx264", times=None):
    """Frames that grow brighter; `times` in tenths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(
                np.full((size[1], size[0], 3), 8 * number % 256, np.uint8), format="rgb24"
            )
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def film(tmp_path, monkeypatch):
    """A folder with a video, and a model that has learned nothing: it says 1/3 of everything."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"]), tmp_path / "model.pt")
    return write_video(tmp_path / "film.mp4")


def predict(*words):
    """The report of a run that went well."""
    assert main([*map(str, words), "--model", "model.pt", "--score", "0.3", "--out", "out"]) is None
    return report()


def report():
    return json.loads(Path("out/predictions.json").read_text())


def lines_of(row):
    return [json.loads(line) for line in Path("out", row["found"]).read_text().splitlines()]


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_a_video_with_its_boxes_and_a_line_for_each_frame(film, capsys):
    (row,) = predict("film.mp4")["videos"]
    assert row | {"objects": 0} == {
        "file": str(film.name),
        "drawn": "film.mp4",
        "found": "film.jsonl",
        "height": HEIGHT,
        "width": WIDTH,
        "frames": FRAMES,
        "seconds": 2.9,
        "objects": 0,
    }
    lines = lines_of(row)
    assert [line["frame"] for line in lines] == list(range(FRAMES))
    assert [line["seconds"] for line in lines] == [number / RATE for number in range(FRAMES)]
    found = [one for line in lines for one in line["objects"]]
    assert all(one["score"] >= 0.3 and one["class"] in "xy" for one in found)
    assert row["objects"] == {name: sum(one["class"] == name for one in found) for name in "xy"}
    drawn = frames_of("out/film.mp4")
    assert [round(moment, 3) for moment, _ in drawn] == [line["seconds"] for line in lines]
    assert all(picture.shape == (HEIGHT, WIDTH, 3) for _, picture in drawn)
    assert all(picture.max(axis=2).std() > 20 for _, picture in drawn)  # it was of one grey; now there are boxes on it
    assert f"{len(found)} objects in {FRAMES} frames of video by model.pt" in capsys.readouterr().out


def test_photographs_and_videos_together(film):
    import PIL.Image

    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save("film.png")
    told = predict("film.png", "*.mp4")
    assert [row["drawn"] for row in told["images"]] == ["film.jpg"]
    assert [row["drawn"] for row in told["videos"]] == ["film.mp4"]


def test_some_frames_of_some_seconds(film):
    (row,) = predict("film.mp4", "--every", "4", "--seconds", "1.5", "--crops", "pieces")["videos"]
    lines = lines_of(row)
    assert [line["frame"] for line in lines] == [0, 4, 8, 12]
    assert [line["seconds"] for line in lines] == [0, 0.4, 0.8, 1.2]
    crops = {one["crop"] for line in lines for one in line["objects"]}
    assert crops == {str(path) for path in Path("pieces").rglob("*.jpg")}
    assert {Path(crop).stem.split("-")[1] for crop in crops} == {"0", "4", "8", "12"}


def test_frames_keep_their_times(film):
    times = [0, 1, 2, 9, 10, 30]
    write_video("uneven.mkv", 6, times=times)
    (row,) = predict("uneven.mkv")["videos"]
    assert [line["seconds"] for line in lines_of(row)] == [moment / RATE for moment in times]
    assert [round(moment, 3) for moment, _ in frames_of("out/uneven.mp4")] == [moment / RATE for moment in times]


def test_odd_sizes_lose_a_row_in_the_drawing_alone(film):
    write_video("odd.avi", 3, (95, 63), codec="ffv1")
    (row,) = predict("odd.avi")["videos"]
    assert (row["height"], row["width"]) == (63, 95)
    assert frames_of("out/odd.mp4")[0][1].shape == (62, 94, 3)


def test_a_phones_video_is_seen_upright(film):
    """A quarter turn clockwise, as the header of a track has it (ISO 14496-12, 8.3.2)."""
    data = bytearray(film.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    Path("turned.mp4").write_bytes(data)
    (row,) = predict("turned.mp4", "--seconds", "0.1")["videos"]
    assert (row["height"], row["width"]) == (WIDTH, HEIGHT)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2] = 255  # left as it is stored, hence above when it is shown
    with av.open("left.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height = WIDTH, HEIGHT
        for packet in (stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")), stream.encode(None)):
            container.mux(packet)
    left = bytearray(Path("left.mp4").read_bytes())
    matrix = left.index(b"tkhd") + 4 + 40
    left[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    Path("left.mp4").write_bytes(left)
    with av.open("left.mp4") as container:
        (frame,) = Frames(container, Selection())
    assert frame.pixels[:, : WIDTH // 2].float().mean() > 200
    assert frame.pixels[:, WIDTH // 2 :].float().mean() < 50


def fails(capsys, *words):
    """What a run says of that which it could not read."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--model", "model.pt", "--score", "0.3", "--out", "out"])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_what_is_no_video_is_named_and_the_others_go_on(film, capsys):
    Path("no.mp4").write_text("not a video")
    Path("empty.mov").touch()
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        for packet in (stream.encode(sound), stream.encode(None)):
            container.mux(packet)
    said = fails(capsys, "no.mp4", "film.mp4", "empty.mov", "sound.mp4", "camera:99")
    assert "no.mp4: cannot be opened as a video: Invalid data found" in said
    assert "empty.mov: cannot be opened as a video: Invalid data found" in said
    assert "sound.mp4: has no pictures" in said
    assert "camera:99: cannot be opened as a video: No such file or directory" in said
    (row,) = report()["videos"]
    assert (row["file"], row["frames"]) == ("film.mp4", FRAMES)


def test_of_a_damaged_video_what_came_before_is_kept(film, capsys):
    write_video("long.mkv", 80)
    whole = Path("long.mkv").read_bytes()
    Path("cut.mkv").write_bytes(whole[: len(whole) // 2])
    assert "cut off: it should have 8.0 s" in fails(capsys, "cut.mkv")
    (row,) = report()["videos"]
    assert 0 < row["frames"] < 80
    assert len(lines_of(row)) == len(frames_of("out/cut.mp4")) == row["frames"]


def test_a_stream_over_a_network(film):
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=film.parent)
    serve.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (row,) = predict(f"http://someone:secret@127.0.0.1:{server.server_port}/film.mp4?key=1")["videos"]
        server.shutdown()
    assert row["frames"] == FRAMES
    assert "secret" not in json.dumps(report())
    assert "key" not in json.dumps(report())


@pytest.mark.slow
def test_what_was_drawn_before_a_kill_can_be_played(film):
    write_video("long.mp4", 4000)
    words = [sys.executable, "-m", "pipelines.predict", film.parent / "long.mp4", "--model", film.parent / "model.pt"]
    words += ["--score", "0.3", "--out", film.parent / "out"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        lines = Path("out/long.jsonl")
        deadline = time.monotonic() + 120
        while not (lines.exists() and lines.read_text().count("\n") > 160) and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    seen = len([json.loads(line) for line in lines.read_text().splitlines()[:-1]])
    assert 100 <= len(frames_of("out/long.mp4")) <= seen + 1


@pytest.mark.parametrize("words", [("--every", "0"), ("--seconds", "-1"), ("--seconds", "nan")])
def test_what_selects_no_frame_is_an_error(words, capsys):
    with pytest.raises(SystemExit):
        main(["film.mp4", *words])
    assert f"argument {words[0]}: {words[1]} is not positive" in capsys.readouterr().err


def test_names():
    assert is_video("a.MP4")
    assert is_video("camera:0")
    assert is_video("rtsp://garden/1")
    assert not is_video("a.jpg")
    assert stem_of("films/a.b.mp4") == "a.b"
    assert stem_of("camera:0") == "camera-0"
    assert "secret" not in stem_of("rtsp://me:secret@garden:554/1?key=secret")


def test_progress_without_an_end(monkeypatch, capsys):
    moments = iter(range(0, 1000, 20))
    monkeypatch.setattr("pipelines.live.time.monotonic", lambda: next(moments))
    assert list(show_progress("abcd", "film", None)) == list("abcd")
    assert capsys.readouterr().out == "  film: 2\n  film: 4\n"
