"""Generate the default data set: bananas in the layout and statistics of d2l.ai 14.6, without any download.

Every image is a pure function of (seed, split, number): more images leave the first ones as they are.
"""

from __future__ import annotations

import csv
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.errors import writing
from pipelines.generate.scenes import paint
from pipelines.live import show_progress
from pipelines.params import GenerateParams

SPLITS = ("train", "val")
HEADER = ("img_name", "label", "xmin", "ymin", "xmax", "ymax")


def generate_image(index: int, split: str, seed: int, size: int, folder: Path) -> tuple:
    """Write image number `index` of a split; returns its row of label.csv."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = paint(rng, size)
    name = f"{index}.png"
    with writing(folder / name):
        Image.fromarray(scene.image).save(folder / name, compress_level=4)
    return (name, 0, *scene.box)


def generate_split(folder: Path, split: str, count: int, seed: int, size: int) -> None:
    """Write `count` images and their label.csv to `folder`, on all cores."""
    images = folder / "images"
    images.mkdir(parents=True)
    one = partial(generate_image, split=split, seed=seed, size=size, folder=images)
    with ProcessPoolExecutor(min(count, os.cpu_count() or 1)) as pool:
        rows = list(show_progress(pool.map(one, range(count), chunksize=8), f"generate {split}", count))
    labels = folder / "label.csv"
    with writing(labels), open(labels, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows)


def generate(out: Path, params: GenerateParams) -> None:
    """Write bananas_train and bananas_val to `out`; what was there is replaced only when all is written.

    Raises:
        OSError: naming `out`, if it is a file, or what could not be written.
    """
    if out.exists():
        os.scandir(out).close()  # a file is an error now, not after all the work
    partial_out = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    try:
        for split in SPLITS:
            count = getattr(params, split)
            generate_split(partial_out / f"bananas_{split}", split, count, params.seed, params.image_size)
    except BaseException:
        shutil.rmtree(partial_out, ignore_errors=True)
        raise
    shutil.rmtree(out, ignore_errors=True)
    partial_out.rename(out)
