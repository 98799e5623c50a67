"""How long `prepare` takes and how much memory it needs for very many photographs: `python -m benchmarks.scale`.

Draws small photographs, all of them different, with a dozen boxes each, as COCO (one JSON: 200,000 photographs make one
of about 500 MB), VOC or YOLO. Prints the seconds and the largest resident memory of a process of its own, at a tenth
of the photographs and at all of them: memory is flat if the second is little more than the first.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shards import peak_mib

SIDE, BOXES, CLASSES = 64, 12, 80
FOLDER = 10_000  # photographs in a folder


def photographs(count: int) -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray]]:
    """Name, JPEG, boxes float [BOXES, 4] as x, y, width, height in pixels, and class numbers from 0, of each."""
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).resize((SIDE, SIDE))
        pixels.save(encoded := io.BytesIO(), "JPEG", quality=70)
        corners = generator.integers(0, SIDE // 2, (BOXES, 2))
        boxes = np.hstack([corners, generator.integers(4, SIDE // 2, (BOXES, 2))])
        yield f"{number // FOLDER:03d}/{number:07d}", encoded.getvalue(), boxes, generator.integers(0, CLASSES, BOXES)


def draw(folder: Path, layout: str, count: int) -> None:
    """Write a data set."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (name, encoded, boxes, labels) in enumerate(photographs(count)):
        file = folder / "images" / f"{name}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded)
        if layout == "coco":
            images.append({"id": number, "file_name": f"{name}.jpg", "height": SIDE, "width": SIDE})
            for box, label in zip(boxes.tolist(), labels.tolist()):
                x, y, width, height = box
                polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
                annotations.append({
                    "id": len(annotations), "image_id": number, "category_id": label, "bbox": box, "iscrowd": 0,
                    "area": width * height, "segmentation": [polygon],
                })  # fmt: skip
        elif layout == "voc":
            file.with_suffix(".xml").write_text(_voc(boxes, labels))
        else:
            shares = np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]]) / SIDE
            file.with_suffix(".txt").write_text(
                "".join(f"{k} {' '.join(map(str, b))}\n" for k, b in zip(labels, shares))
            )
    names = [f"class {number}" for number in range(CLASSES)]
    if layout == "coco":
        (folder / "annotations").mkdir()
        document = {"images": images, "annotations": annotations}
        document["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
        (folder / "annotations" / "instances_all.json").write_text(json.dumps(document))
    elif layout == "yolo":
        (folder / "classes.txt").write_text("\n".join(names))


def _voc(boxes: np.ndarray, labels: np.ndarray) -> str:
    objects = "".join(
        f"<object><name>class {label}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax>"
        f"<ymax>{y + height}</ymax></bndbox></object>"
        for (x, y, width, height), label in zip(boxes, labels)
    )
    return f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size>{objects}</annotation>"


def main() -> None:
    """Measure at a tenth of the photographs and at all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--images", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--layout", choices=["coco", "voc", "yolo"], default="coco", help="default: %(default)s")
    args = parser.parse_args()
    for count in (args.images // 10, args.images):
        with tempfile.TemporaryDirectory() as name:
            draw(Path(name) / "raw", args.layout, count)
            start = time.perf_counter()
            peak = peak_mib(Path(name) / "raw", Path(name) / "out")
            print(
                f"{args.layout}: {count} photographs in {time.perf_counter() - start:.0f} s, {peak:.0f} MiB", flush=True
            )


if __name__ == "__main__":
    main()
