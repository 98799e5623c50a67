"""YOLO11n from scratch on prepared data, beside `benchmarks.accuracy`: `python -m benchmarks.yolo`.

The package is under the AGPL and no dependency of this project. It goes into a folder of its own on PYTHONPATH:

    uv pip install --no-deps --target FOLDER ultralytics ultralytics-thop opencv-python-headless polars \
        polars-runtime-32

It trains with the package's own parameters, for so many minutes, and its best weights are measured by our metrics. The
results go where those of `benchmarks.accuracy` are, which shows both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.accuracy import RESULTS, show
from benchmarks.paired import Missing, machine
from pipelines.coco import average_precision
from pipelines.store.shards import BOXES, Manifest, read_manifest, read_records
from pipelines.training.batches import to_sample
from ssd.metrics import evaluate, flatten_found, flatten_truths

MODEL = "yolo11n"


def export(prepared: Path, manifest: Manifest, folder: Path) -> Path:
    """Write prepared data in YOLO's layout; returns its data.yaml."""
    for split in manifest.splits:
        images, labels = folder / "images" / split, folder / "labels" / split
        for made in (images, labels):
            made.mkdir(parents=True)
        for number, row in enumerate(rows_of(prepared, manifest, split)):
            suffix = ".png" if row["image"]["bytes"].startswith(b"\x89PNG") else ".jpg"
            (images / f"{number:06d}{suffix}").write_bytes(row["image"]["bytes"])
            sample = to_sample(row)
            low, high = sample.boxes.split(2, dim=1)
            shares = torch.cat([(low + high) / 2, high - low], dim=1)[~sample.iscrowd].tolist()
            lines = [f"{label - 1} {' '.join(map(str, box))}\n" for label, box in zip(sample.labels.tolist(), shares)]
            (labels / f"{number:06d}.txt").write_text("".join(lines))
    data = folder / "data.yaml"
    content = {"path": str(folder), "names": dict(enumerate(manifest.classes))}
    data.write_text(yaml.safe_dump(content | {split: f"images/{split}" for split in manifest.splits}))
    return data


def rows_of(prepared: Path, manifest: Manifest, split: str) -> list[dict[str, Any]]:
    """The records of a split, images included."""
    return [r for batch in read_records(prepared, manifest, split, ["image", *BOXES]) for r in batch.to_pylist()]


def train(data: Path, args: argparse.Namespace, seed: int) -> tuple[Any, list[float]]:
    """The model of the best epoch, and the minutes at the end of each epoch.

    Raises:
        Missing: the package is not installed.
    """
    os.environ.setdefault("YOLO_OFFLINE", "true")
    try:
        from ultralytics import YOLO, settings
    except ImportError as error:
        raise Missing(f"{error.name}, see --help") from error
    settings.update({"mlflow": False})
    minutes: list[float] = []
    start = time.perf_counter()
    model = YOLO(f"{MODEL}.yaml")
    model.add_callback("on_fit_epoch_end", lambda _: minutes.append((time.perf_counter() - start) / 60))
    own = {"project": str(data.parent), "name": "run", "seed": seed, "device": args.device, "plots": False}
    model.train(data=str(data), time=args.minutes / 60, imgsz=args.size, workers=args.loader_workers, **own)
    return YOLO(data.parent / "run" / "weights" / "best.pt"), minutes


def measure(model: Any, prepared: Path, manifest: Manifest, folder: Path, split: str, size: int) -> tuple[float, float]:
    """COCO's AP and VOC's AP50 of a model on a split, as our own training measures them."""
    found, truth = [], []
    files = sorted((folder / "images" / split).iterdir())
    for row, file in zip(rows_of(prepared, manifest, split), files, strict=True):
        boxes = model.predict(file, imgsz=size, conf=0.001, max_det=300, verbose=False)[0].boxes
        found.append((boxes.xyxyn.cpu().numpy(), boxes.cls.cpu().numpy().astype(int) + 1, boxes.conf.cpu().numpy()))
        sample = to_sample(row)
        truth.append([x.numpy() for x in (sample.boxes, sample.labels, sample.difficult, sample.iscrowd)])
    flat, truths = flatten_found(*zip(*found)), flatten_truths(*zip(*truth))
    precision = evaluate(flat, truths, len(manifest.classes), (0.5,), "voc10")
    return average_precision(flat, truths, len(files), manifest.classes), float(precision.mean[0])


def main() -> None:
    """Train on each data set with each seed, and show all results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.yolo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER", help="prepared shards")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int, default=320, help="of the input, a side (default: %(default)s)")
    parser.add_argument("--test", action="store_true", help="measure the test split, not validation")
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="of the results (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"{MODEL} {args.size} {args.minutes:g} min"
    for seed in range(args.seeds):
        for data, prepared in (item.split("=", 1) for item in args.data):
            file = args.out / f"{data}-{name}-{args.device}-{args.test}-{seed}.parquet".replace(" ", "-")
            if file.exists():
                continue
            manifest = read_manifest(Path(prepared))
            with tempfile.TemporaryDirectory() as folder:
                yaml_file = export(Path(prepared), manifest, Path(folder))
                model, minutes = train(yaml_file, args, seed)
                split = "test" if args.test else "val"
                ap, ap50 = measure(model, Path(prepared), manifest, Path(folder), split, args.size)
            images = manifest.splits["train"].images * len(minutes)
            result = {
                "data_name": data, "name": name, "seed": seed, "device": args.device, "test": args.test,
                "overrides": "{}", "machine": machine(args.device), "epochs": len(minutes),
                "images_per_s": images / (60 * minutes[-1]), "seconds": 60 * minutes[-1], "ap": ap, "ap50": ap50,
                "minutes": minutes, "ap_by_epoch": [float("nan")] * len(minutes), "loss_by_epoch": [],
            }  # fmt: skip
            pq.write_table(pa.Table.from_pylist([result]), file)
    show(args.out)


if __name__ == "__main__":
    main()
