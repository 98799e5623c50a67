"""Detect objects in images and draw them: `ssd predict photo.jpg`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.arguments import add_model_arguments, find_images, registered_name
from pipelines.command import CommandParser, command, file_pattern
from pipelines.errors import writing

EXAMPLES = """examples:
  ssd predict photo.jpg
  ssd predict 'holiday/*.jpg' scans/ --score 0.7 --out found
  ssd predict scans/ --crops pieces
  ssd predict photo.jpg --model models:/ssd/3
  ssd predict photo.jpg --model artifacts/train/model.pt
  ssd predict photo.jpg --model artifacts/export/model.onnx

writes OUT/<image>.jpg with the boxes drawn and OUT/predictions.json; boxes are [xmin, ymin, xmax, ymax] in pixels of
the image, from 0. The registry is the one at MLFLOW_TRACKING_URI, by default the one under runs/."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd predict",
        description="Detect objects in images and draw them.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", type=file_pattern, help="files, folders (searched below) and globs"
    )
    add_model_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("artifacts/predict"), help="default: artifacts/predict")
    parser.add_argument("--crops", type=Path, help="a folder for what was found, cut out of the images, by class")
    return parser


@command("predict", "what was drawn stays; the same command begins anew")
def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and predict; 1 if any image could not be read."""
    args = parser().parse_args(words)
    paths = find_images(args.images)
    from pipelines.predict.photographs import load_model, predict  # these take seconds, and --help needs none of them

    detector, called = load_model(args.model, registered_name(args.model))
    rows, failures = predict(detector, paths, args.score, args.out, args.crops)
    scores = detector.thresholds if args.score is None else [args.score] * len(detector.class_names)
    thresholds = dict(zip(detector.class_names, scores))
    report = {"model": called, "thresholds": thresholds, "images": rows}
    file = args.out / "predictions.json"
    with writing(file):
        file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"predict: {failure}", file=sys.stderr)
    objects = sum(len(row["objects"]) for row in rows)
    unread = f", {len(failures)} could not be read" if failures else ""
    print(f"{file}: {objects} objects in {len(rows)} images by {called}{unread}")
    return 1 if failures else 0


if __name__ == "__main__":
    main()
