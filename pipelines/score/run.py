"""Score a source: list it, detect in the parts that are missing, and write what follows from all parts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from pipelines.arguments import ArgumentsError, NamedModel
from pipelines.errors import writing
from pipelines.live import LINES
from pipelines.onnx_detector import OnnxDetector, open_detector
from pipelines.score import drift
from pipelines.score.manifest import (
    ERRORS,
    LOCK,
    PAGE,
    PARTS,
    Earlier,
    Manifest,
    ManifestError,
    begin,
    code_digest,
    digest_of,
    missing_parts,
)
from pipelines.score.results import Counts, write_errors, write_part
from pipelines.score.source import Source, list_source
from ssd.model import ModelConfig


def score(
    source: str,
    out: Path,
    model: NamedModel,
    lowest: float | None,
    part: int,
    forms: list[str],
    earlier: Earlier,
    statistics: Path,
    evaluated: Path,
) -> str:
    """Score a source, or go on with it; the closing line is returned.

    Args:
        source: folder, glob, Parquet or s3://… . out: folder of results.
        lowest: score that counts; None: the model's own of each class.
        part: photographs in a part.
        forms: of `pipelines.score.FORMATS`.
        earlier: what becomes of results that are there, see `begin`.
        statistics, evaluated: see `pipelines.score.drift.compare`.

    Raises:
        ManifestError: the folder has results of something else, or another process works in it.
        SourceError, ArgumentsError: there is nothing to score, or nothing to do it with.
    """
    detector = open_detector(model.state, model.address)
    if isinstance(detector, OnnxDetector):
        detector.check_lowest(lowest)
    if not model.sha256:
        raise ArgumentsError(f"{model.address}: name a version by its number, so that the same one goes on")
    found = list_source(source, out)
    manifest = Manifest(
        source=source,
        listing=digest_of(found.listing),
        photographs=len(found.listing),
        model=model.version,
        weights=model.sha256,
        classes=detector.class_names,
        thresholds=[float(value) for value in detector.thresholds],
        score=lowest,
        part=part,
        code=code_digest(),
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            begin(out, manifest, found.listing, earlier)
            config = detector.config if isinstance(detector, OnnxDetector) else detector.model.config
            _detect(out, manifest, found, model, config)
            return _conclude(out, manifest, found, forms, statistics, evaluated)
    except Timeout:
        raise ManifestError(f"{out}: another process is scoring into it") from None


def _detect(out: Path, manifest: Manifest, source: Source, model: NamedModel, config: ModelConfig) -> None:
    """Detect in the missing parts, and show how it goes."""
    missing = missing_parts(out, manifest)
    sizes = {part: min(manifest.part, manifest.photographs - part * manifest.part) for part in missing}
    done = manifest.photographs - sum(sizes.values())
    goes_on = f", {done} of them scored before" if done else ""
    print(f"{manifest.source}: {manifest.photographs} photographs{goes_on}; {manifest.model}", flush=True)
    if not missing:
        return
    from pipelines.score.detect import detect_parts

    watched = sys.stderr.isatty()
    shown = time.monotonic()
    pace = Pace()
    with tqdm(total=manifest.photographs, initial=done, unit="image", disable=not watched) as bar:
        tables = detect_parts(source, missing, manifest.part, model.state, config, manifest.score)
        for part, table in tables:
            write_part(out, part, table, manifest)
            done += sizes[part]
            now = time.monotonic()
            speed = pace.at(done, now)
            if speed is None:  # the first part: the bar's clock starts now as well
                bar.initial = bar.n = done
                bar.unpause()
            else:
                bar.update(sizes[part])
            if not watched and (now - shown > LINES or done == manifest.photographs):
                shown = now
                print(f"  {progress(done, manifest.photographs, speed)}", flush=True)
    if left := missing_parts(out, manifest):
        raise ManifestError(f"{out}: {len(left)} parts did not come back; run the same command again")


class Pace:
    """Photographs a second since the first part came: what Ray takes to start says nothing of what is left."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def at(self, done: int, now: float) -> float | None:
        """The pace when so many photographs are done, in seconds of a clock; None at the first part."""
        if self._first is None:
            self._first = done, now
            return None
        return (done - self._first[0]) / max(now - self._first[1], 1e-9)


def progress(done: int, total: int, speed: float | None) -> str:
    """How far it is, at so many photographs a second, if that is known."""
    if speed is None:
        return f"{done}/{total} photographs"
    seconds = round((total - done) / speed)
    left = f", {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left" if done < total else ""
    return f"{done}/{total} photographs, {speed:.1f} images/s{left}"


def _conclude(
    out: Path, manifest: Manifest, source: Source, forms: list[str], statistics: Path, evaluated: Path
) -> str:
    """Write errors.csv, the report and the formats; the closing line."""
    counts = write_errors(out, manifest)
    compared = drift.compare(out, manifest, statistics, evaluated)
    drift.write_drift(out, manifest, counts, compared)
    for line in drift.describe(compared):
        print(f"  unlike the training: {line}")
    written = []
    if forms:
        from pipelines.score.formats import write_format

        written = [write_format(out, form, source, manifest) for form in forms]
    return closing_line(out, manifest, counts, written)


def closing_line(out: Path, manifest: Manifest, counts: Counts, written: list[Path]) -> str:
    """What was made, the number that matters, and what to do next."""
    files = "1 file" if counts.errors == 1 else f"{counts.errors} files"
    bad = f", {files} could not be read ({out / ERRORS})" if counts.errors else ""
    labels = " and ".join(map(str, written))
    after = f"open {labels} in a labelling tool" if written else "add --format coco, voc or yolo to get labels of it"
    said = f"{counts.objects} objects in {counts.photographs} photographs by {manifest.model}{bad}"
    return f"{out / PARTS}: {said}; look at {out / PAGE}, then {after}"
