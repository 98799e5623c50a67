"""Videos and cameras, read and written by PyAV, which is FFmpeg."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.errors import first_line, without_secrets, writing
from pipelines.live import show_progress
from pipelines.onnx_detector import OnnxDetector
from pipelines.pictures.boxes import draw
from pipelines.predict.objects import cut_out, drawn_names, found_objects
from pipelines.predict.sources import Selection, is_live, stem_of
from ssd.prediction import Detector

if TYPE_CHECKING:
    from av.container import InputContainer

BATCH = 8  # frames that go through the network together; of a camera one, which would wait for the others
H264 = {"preset": "veryfast", "tune": "zerolatency", "crf": "23", "g": "50"}
MP4 = {"movflags": "frag_keyframe+empty_moov", "flush_packets": "1"}  # what was written before a kill can be played
TIME_BASE = Fraction(1, 90_000)  # what MP4 files usually count in


class VideoError(Exception):
    """A video cannot be read at all; the message says why, without its name."""


class Frame(NamedTuple):
    """One picture of a video.

    Attributes:
        number: from 0, those that are passed over by `every` counted as well.
        seconds: since the first.
        pixels: uint8 [3, H, W], upright.
    """

    number: int
    seconds: float
    pixels: Tensor


def predict_videos(
    detector: Detector | OnnxDetector,
    sources: Sequence[str],
    score: float | None,
    out: Path,
    crops: Path | None,
    selection: Selection,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Detect in videos and write below `out`, as `pipelines.predict.photographs.predict` does with photographs.

    Of each, a video with the boxes is written and a line of JSON for each frame beside it. What was written before a
    kill, ctrl-C or a damaged part of the video can be played and read. Sound is left out.

    Args:
        detector, score, out, crops: as there.
        sources: see `pipelines.predict.sources`; ctrl-C ends one that is live.
        selection: of frames; those between are passed over.

    Returns:
        a row for each that could be read: file, drawn, found (the file of lines), height, width, frames, seconds, and
        objects, how many of each class in all frames; and what was wrong with others, or ended them too early.
    """
    rows, failures = [], []
    for source, name in zip(sources, drawn_names([stem_of(source) for source in sources], ".mp4")):
        shown = without_secrets(source)
        try:
            row, broken = _predict_video(detector, source, score, out / name, crops, selection)
        except VideoError as error:
            failures.append(f"{shown}: {error}")
            continue
        if broken:
            failures.append(f"{shown}: ends after {row['seconds']} s, {row['frames']} frames: {broken}")
        found = ", ".join(f"{count} {name}" for name, count in row["objects"].items()) or "nothing found"
        print(f"{shown}: {row['frames']} frames, {found}", flush=True)
        rows.append({"file": shown} | row)
    return rows, failures


def _predict_video(
    detector: Detector | OnnxDetector,
    source: str,
    score: float | None,
    drawn: Path,
    crops: Path | None,
    selection: Selection,
) -> tuple[dict[str, Any], str]:
    """The row of one video, and what ended it too early.

    Raises:
        VideoError: there is nothing in it that could be read.
    """
    objects, last = Counter[str](), None
    with _open(source) as container, writing(drawn), Writer(drawn) as writer:
        frames = Frames(container, selection)
        passing = show_progress(frames, without_secrets(source), frames.expected())
        try:
            while batch := list(islice(passing, 1 if is_live(source) else BATCH)):
                for frame, found in zip(batch, detector.predict_likely([one.pixels for one in batch], score)):
                    names = detector.names(found.labels)
                    what = found_objects(names, found)
                    if crops is not None:
                        cut_out(frame.pixels, what, crops, f"{drawn.stem}-{frame.number}")
                    writer.add(frame, draw(frame.pixels, found, names), what)
                    objects.update(names)
                    last = frame
        except KeyboardInterrupt:
            if not is_live(source):
                raise
    if last is None:
        raise VideoError(f"no frame can be read: {frames.broken or 'it has none'}")
    height, width = last.pixels.shape[-2:]
    row = {"drawn": drawn.name, "found": writer.lines_file.name, "height": height, "width": width}
    row |= {"frames": writer.frames, "seconds": round(last.seconds, 3), "objects": dict(sorted(objects.items()))}
    return row, frames.broken


def _open(source: str) -> InputContainer:
    """Open a file, camera or stream that has pictures.

    Raises:
        VideoError: it cannot be opened.
    """
    try:
        import av
    except ImportError:
        raise VideoError("videos need PyAV: pip install av") from None
    av.logging.set_level(av.logging.PANIC)  # what is wrong is said by the errors
    camera = source.startswith("camera:")
    try:
        address = f"/dev/video{source.removeprefix('camera:')}" if camera else source
        container = av.open(address, format="v4l2" if camera else None)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be opened as a video: {_reason(error)}") from None
    if not container.streams.video:
        container.close()
        raise VideoError("has no pictures")
    container.streams.video[0].thread_type = "AUTO"
    return container


class Frames:
    """The frames of a selection, one after the other.

    Attributes:
        broken: what ended them too early; "" where nothing did.
    """

    def __init__(self, container: InputContainer, selection: Selection):
        self.container, self.stream = container, container.streams.video[0]
        self.selection, self.broken = selection, ""

    def __iter__(self) -> Iterator[Frame]:
        import av

        first: float | None = None
        time = 0.0
        try:
            for number, frame in enumerate(self.container.decode(self.stream)):
                time = frame.time if frame.time is not None else number / float(self.stream.average_rate or 25)
                first = time if first is None else first
                if self.selection.seconds and time - first >= self.selection.seconds:
                    return
                if number % self.selection.every == 0:
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    pixels = torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)
                    yield Frame(number, time - first, pixels)
        except av.FFmpegError as error:
            self.broken = _reason(error)
            return
        length = self._length()
        if length and time - (first or 0.0) < 0.95 * length - 1:  # sound may be a little longer
            self.broken = f"cut off: it should have {length:.1f} s"

    def _length(self) -> float:
        """In seconds, as the file says; 0 where it does not."""
        duration, base = self.stream.duration, self.stream.time_base
        return float(duration * base) if duration and base else (self.container.duration or 0) / 1e6

    def expected(self) -> int | None:
        """About how many there are; None where nothing tells."""
        rate = self.stream.average_rate
        wanted = [seconds for seconds in (self._length(), self.selection.seconds) if seconds]
        return max(round(min(wanted) * rate / self.selection.every), 1) if rate and wanted else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


class Writer:
    """A context that writes frames as H.264 in an MP4 of fragments, and what was found as lines of JSON beside it."""

    def __init__(self, drawn: Path):
        """Nothing is opened before the first frame, which says how large it is."""
        self.drawn, self.lines_file = drawn, drawn.with_suffix(".jsonl")
        self.frames, self.last = 0, -1
        self.container: Any = None

    def __enter__(self) -> Writer:
        return self

    def add(self, frame: Frame, picture: Any, objects: list[dict[str, Any]]) -> None:
        """Write the next frame, `picture` with its boxes drawn; a frame of another size is scaled to the first's."""
        import av

        width, height = (max(side // 2 * 2, 2) for side in picture.size)  # those of yuv420p are even
        if self.container is None:
            self.lines = self.lines_file.open("w", encoding="utf-8")
            self.container = av.open(str(self.drawn), "w", options=dict(MP4))
            self.stream = self.container.add_stream("libx264", options=dict(H264))
            self.stream.pix_fmt = "yuv420p"
            self.stream.time_base = self.stream.codec_context.time_base = TIME_BASE
            self.stream.width, self.stream.height = width, height
        size = self.stream.width, self.stream.height
        picture = picture.crop((0, 0, width, height))
        shown = av.VideoFrame.from_image(picture if picture.size == size else picture.resize(size))
        self.last = max(round(frame.seconds / TIME_BASE), self.last + 1)  # times that stand still are no video
        shown.pts, shown.time_base = self.last, TIME_BASE
        self.container.mux(self.stream.encode(shown))
        line = {"frame": frame.number, "seconds": round(frame.seconds, 3), "objects": objects}
        print(json.dumps(line, ensure_ascii=False), file=self.lines, flush=True)
        self.frames += 1

    def __exit__(self, *_: object) -> None:
        if self.container is not None:
            self.container.mux(self.stream.encode(None))
            self.container.close()
            self.lines.close()
