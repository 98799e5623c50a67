"""Detect objects in images and videos and draw them: `ssd predict photo.jpg`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.arguments import add_model_arguments, find_images, registered_name
from pipelines.command import CommandParser, command, file_pattern
from pipelines.errors import writing
from pipelines.predict.sources import Selection, is_live, is_video

EXAMPLES = """examples:
  ssd predict photo.jpg
  ssd predict 'holiday/*.jpg' scans/ --score 0.7 --out found
  ssd predict scans/ --crops pieces
  ssd predict film.mp4 --every 5
  ssd predict camera:0 --seconds 60
  ssd predict photo.jpg --model models:/ssd/3
  ssd predict photo.jpg --model artifacts/train/model.pt
  ssd predict photo.jpg --model artifacts/export/model.onnx

writes OUT/<image>.jpg with the boxes drawn and OUT/predictions.json; boxes are [xmin, ymin, xmax, ymax] in pixels of
the image, from 0. Of a video it writes OUT/<video>.mp4 and OUT/<video>.jsonl, a line for each frame. The registry is
the one at MLFLOW_TRACKING_URI, by default the one under runs/."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd predict",
        description="Detect objects in images and videos and draw them.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        type=_source,
        help="images, folders of images (searched below), globs, videos, camera:0, rtsp://…",
    )
    add_model_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("artifacts/predict"), help="default: artifacts/predict")
    parser.add_argument("--crops", type=Path, help="a folder for what was found, cut out of the images, by class")
    parser.add_argument("--every", type=_positive, default=1, help="of a video each so-many-th frame (default: 1)")
    parser.add_argument("--seconds", type=_duration, default=0.0, help="of a video (default: to its end, or ctrl-C)")
    return parser


def _source(text: str) -> str:
    return text if is_live(text) else file_pattern(text)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _duration(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


@command("predict", "what was drawn stays; the same command begins anew")
def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and predict; 1 if any image could not be read."""
    args = parser().parse_args(words)
    paths = find_images(source for source in args.sources if not is_live(source))
    images = [path for path in paths if not is_video(path)]
    videos = [*(source for source in args.sources if is_live(source)), *(str(path) for path in paths if is_video(path))]
    from pipelines.predict.photographs import load_model, predict  # these take seconds, and --help needs none of them
    from pipelines.predict.videos import predict_videos

    detector, called = load_model(args.model, registered_name(args.model))
    args.out.mkdir(parents=True, exist_ok=True)
    rows, failures = predict(detector, images, args.score, args.out, args.crops)
    selection = Selection(args.every, args.seconds)
    films, unread = predict_videos(detector, videos, args.score, args.out, args.crops, selection)
    failures += unread
    scores = detector.thresholds if args.score is None else [args.score] * len(detector.class_names)
    thresholds = dict(zip(detector.class_names, scores))
    report = {"model": called, "thresholds": thresholds, "images": rows} | ({"videos": films} if videos else {})
    file = args.out / "predictions.json"
    with writing(file):
        file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"predict: {failure}", file=sys.stderr)
    objects = sum(len(row["objects"]) for row in rows) + sum(sum(film["objects"].values()) for film in films)
    frames = sum(film["frames"] for film in films)
    seen = [f"{len(rows)} images"] * bool(rows or not films) + [f"{frames} frames of video"] * bool(films)
    failed = f", {len(failures)} could not be read" if failures else ""
    print(f"{file}: {objects} objects in {' and '.join(seen)} by {called}{failed}")
    return 1 if failures else 0


if __name__ == "__main__":
    main()
