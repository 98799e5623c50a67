"""Detect objects in images and draw them: `python -m pipelines.predict photo.jpg`."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.command import CommandParser, command, file_or_name, file_pattern
from pipelines.errors import UserError, first_line, without_secrets, writing
from pipelines.settings import PARAMS_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from ssd.prediction import Detector, Prediction

BATCH = 16
EXAMPLES = """examples:
  ssd predict photo.jpg
  ssd predict 'holiday/*.jpg' scans/ --score 0.7 --out found
  ssd predict photo.jpg --model models:/ssd/3
  ssd predict photo.jpg --model artifacts/train/model.pt

writes OUT/<image>.jpg with the boxes drawn and OUT/predictions.json; boxes are [xmin, ymin, xmax, ymax] in pixels of
the image, from 0. The registry is the one at MLFLOW_TRACKING_URI, by default the one under runs/."""


class PredictError(UserError):
    """There is nothing to predict with or on; the message says what to do."""


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Files, the images in folders (and below), and what globs match; each once, in the order given.

    Raises:
        PredictError: a pattern leads to nothing.
    """
    from pipelines.layouts.listing import is_image

    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and is_image(p.name) and p.name[0] != ".")
        else:  # pipes and devices are passed over: reading one may never end
            names = [pattern] if path.exists() else sorted(glob.glob(pattern, recursive=True))
            matches = [Path(name) for name in names if Path(name).is_file()]
        if not matches:
            raise PredictError(f"{pattern}: no such file, or a folder without images")
        found += matches
    return list(dict.fromkeys(found))


def load_model(model: str | None, name: str) -> tuple[Detector, str]:
    """The detector and what it is called.

    Args:
        model: a weights file, or a `models:/…` address; None: the registry's champion, or else its candidate.
        name: of the registered model, where `model` is None.

    Raises:
        PredictError: it is not there, or is not a model of this project.
    """
    import torch
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import registry, runs
    from ssd.checkpoint import load
    from ssd.prediction import Detector

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if model and not model.startswith("models:/"):
        try:
            return Detector(load(model), device), model
        except FileNotFoundError:
            raise PredictError(f"{model}: no such file; the registry's models are models:/NAME/VERSION") from None
        except ValueError as error:
            raise PredictError(f"{model}: {str(error).removeprefix(f'{model}: ')}") from None
    client = runs.connect()
    tried = [model] if model else [f"models:/{name}@{alias}" for alias in (registry.CHAMPION, registry.CANDIDATE)]
    for uri in tried:
        try:
            return Detector(registry.load_weights(uri, client), device), uri
        except (MlflowException, ValueError) as error:
            reason = first_line(error)
    where = without_secrets(client.tracking_uri)
    raise PredictError(f"{' and '.join(tried)} cannot be read at {where}: {reason}; run `dvc repro`, or give --model")


def predict(
    detector: Detector, paths: Sequence[Path], score: float | None, out: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Detect, draw, and write below `out`.

    Args:
        detector: see `load_model`.
        paths: of the images.
        score: the lowest that counts; None: the model's own of each class.
        out: a folder.

    Returns:
        a row for each image that could be read: file, drawn, height, width, objects; and what was wrong with others.
    """
    from ssd.images import decode

    out.mkdir(parents=True, exist_ok=True)
    names = drawn_names(paths)
    rows, failures = [], []
    for start in range(0, len(paths), BATCH):
        readable: list[tuple[Path, Tensor]] = []
        for path in paths[start : start + BATCH]:
            try:
                readable.append((path, decode(path.read_bytes())))
            except (OSError, ValueError) as error:
                failures.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        for (path, image), found in zip(readable, detector.predict_likely([i for _, i in readable], score)):
            rows.append(_write(detector, path, image, found, out / names[path]))
    return rows, failures


def drawn_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name for each path's drawing; where two would be the same, they are numbered."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    for path in paths:
        name = f"{path.stem}.jpg"
        while name in taken:  # a file may be called a~2 itself
            counts[path.stem] += 1
            name = f"{path.stem}~{counts[path.stem] + 1}.jpg"
        taken.add(name)
        names[path] = name
    return names


def _write(detector: Detector, path: Path, image: Tensor, found: Prediction, drawn: Path) -> dict[str, Any]:
    from pipelines.pictures.boxes import draw

    names = detector.names(found.labels)
    with writing(drawn):
        draw(image, found, names, drawn)
    objects = [
        {"class": name, "score": round(float(score), 4), "box": [round(float(side), 1) for side in box]}
        for name, score, box in zip(names, found.scores, found.boxes)
    ]
    summary = ", ".join(f"{o['class']} {o['score']:.2f}" for o in objects) or "nothing found"
    print(f"{path}: {summary}", flush=True)
    height, width = image.shape[-2:]
    return {"file": str(path), "drawn": drawn.name, "height": height, "width": width, "objects": objects}


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


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
    parser.add_argument(
        "--model",
        type=file_or_name,
        help="weights file, models:/NAME/VERSION or models:/NAME@ALIAS (default: champion)",
    )
    parser.add_argument(
        "--score",
        "--threshold",
        type=_threshold,
        help="lowest score drawn (default: the model's own of each class, with the best F1 of its validation split)",
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts/predict"), help="default: artifacts/predict")
    return parser


@command("predict", "what was drawn stays; the same command begins anew")
def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and predict; 1 if any image could not be read."""
    args = parser().parse_args(words)
    paths = find_images(args.images)
    from pipelines.params import RegistryParams, load_stated  # these take seconds, and --help needs none of them

    registry_params = RegistryParams() if args.model or not PARAMS_FILE.exists() else load_stated().registry
    detector, called = load_model(args.model, registry_params.name)
    rows, failures = predict(detector, paths, args.score, args.out)
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
