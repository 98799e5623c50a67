"""Small objects in large photographs, whole and in tiles: AP after the same minutes of training.

Draws scenes of 2000×2000 pixels with some thirty bananas of 16 to 24 pixels among balls of their size, and trains
params.yaml on the photographs resized to each of `--whole`, and on tiles. Each network has the anchors that
are designed for it (`model.anchors: auto`). AP is of whole photographs, those of the validation split, by the
last epoch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.generate.backdrops import blend, cast_shadow, expose, paint_background, paint_ball
from pipelines.generate.scenes import Banana, render
from pipelines.params import Params, PrepareParams, load_draft
from pipelines.prepare.stage import prepare
from pipelines.recipe.resolve import resolve_for
from pipelines.store.shards import read_manifest
from pipelines.training.loop import Job, Run, fit
from ssd.memory import keep_memory

SIZE, OBJECTS, SIDES, UNIT = 2000, 30, (16, 24), 0.4  # pixels; objects a scene; pixels; of lengths at 256 pixels
WARM, TIMED = 2, 6  # steps by which the epochs of the same minutes are reckoned


def draw_banana(rng: np.random.Generator, light: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Colour [h, w, 3] and alpha [h, w] of a banana whose longer side is within SIDES."""
    while True:
        form = {"bend": rng.uniform(3.6, 7.0), "arc": rng.uniform(0.6, 1.05), "turn": rng.uniform(0, 2 * np.pi)}
        pose = {"squash": rng.uniform(0.75, 1.0), "mirror": float(rng.choice((-1, 1))), "scale": rng.uniform(2.0, 4.5)}
        colour, alpha = render(Banana(**form, **pose, ripeness=rng.beta(2.0, 1.6), light=light), rng)
        rows, columns = (np.flatnonzero((alpha >= 0.5).any(axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if SIDES[0] <= max(alpha[box].shape) <= SIDES[1]:
            return colour[box], alpha[box]


def draw_scene(seed: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A photograph uint8 [SIZE, SIZE, 3], and the boxes of its bananas, of which no two touch."""
    rng = np.random.default_rng([seed, SIZE])
    light = (-0.5, -0.6, 0.62)
    backdrop = Image.fromarray(paint_background(rng, SIZE // 4).clip(0, 255).astype(np.uint8))
    canvas = np.asarray(backdrop.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float)
    for _ in range(3 * OBJECTS):
        paint_ball(canvas, rng, UNIT, light)
    boxes: list[tuple[int, int, int, int]] = []
    while len(boxes) < OBJECTS:
        colour, alpha = draw_banana(rng, light)
        height, width = alpha.shape
        x, y = int(rng.integers(0, SIZE - width)), int(rng.integers(0, SIZE - height))
        box = (x, y, x + width, y + height)
        if all(box[2] < a or c < box[0] or box[3] < b or d < box[1] for a, b, c, d in boxes):
            cast_shadow(canvas, alpha, (x, y), light, UNIT)
            blend(canvas, colour, alpha, (x, y))
            boxes.append(box)
    return expose(canvas, rng), boxes


def write_scenes(folder: Path, counts: dict[str, int]) -> None:
    """Write scenes as VOC data with image sets; those that are there stay."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    seed = 0
    for split, count in counts.items():
        names = [f"{seed + number:04d}" for number in range(count)]
        for name in names:
            file = folder / "Annotations" / f"{name}.xml"
            if not file.exists():
                image, boxes = draw_scene(int(name))
                Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
                objects = "".join(
                    f"<object><name>banana</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
                    f"<ymax>{y2}</ymax></bndbox></object>"
                    for x1, y1, x2, y2 in boxes
                )
                size = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
                file.write_text(f"<annotation>{size}{objects}</annotation>")
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names))
        seed += count


def params_of(changes: dict[str, Any], args: argparse.Namespace) -> Params:
    """The parameters of params.yaml with these changes; what the recipe would choose is fixed, but for the anchors."""
    augment = {"horizontal_flip": 0.5, "photometric": 0.0, "zoom_out": 0.0, "iou_crop": False}
    train = {
        "batch_size": args.batch_size,
        "lr": 2e-3,
        "warmup_steps": 30,
        "ema_decay": 0.98,
        "patience": 0,
        "epochs": 8,
    }
    common = {f"augment.{key}": value for key, value in augment.items()}
    common |= {f"train.{key}": value for key, value in train.items()} | {"loss.least_negatives": args.negatives}
    common |= {"model.preset": args.preset} if args.preset else {}
    draft = load_draft(overrides=common | changes | {"model.anchors": "auto"})
    prepared = args.folder / "prepared"
    return resolve_for(draft, read_manifest(prepared), prepared).params()


def train(params: Params, args: argparse.Namespace) -> Run:
    """Train for as many epochs as fit into the minutes."""
    job = Job(params, args.folder / "prepared", args.folder / "cache", 0)
    probe = Run(job, torch.device(args.device))
    batches = iter(probe.batches())
    for step in range(WARM + TIMED):
        if step == WARM:
            start = time.perf_counter()
        probe.trainer.step(next(batches).to(probe.device))
    probe.trainer.check()
    of_step = (time.perf_counter() - start) / TIMED
    epochs = max(round(60 * args.minutes / (of_step * probe.steps)), 1)
    train = params.train.__class__(**{**vars(params.train), "epochs": epochs})
    last = epochs * probe.steps
    job = Job(params.model_copy(update={"train": train}), job.prepared, job.cache, 0)
    validate, Run.validate = Run.validate, lambda run: validate(run) if run.trainer.steps == last else {}
    try:
        return fit(job, lambda *_: None, device=args.device)
    finally:
        Run.validate = validate


def main() -> None:
    """Read the command line and print a row for each network."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for scenes, shards and decoded images; what is there is used again")
    parser.add_argument("--whole", type=int, nargs="*", default=[512, 1024], help="inputs of whole photographs, a side")
    parser.add_argument("--tile", type=int, nargs="*", default=[256], help="of tiles, a side")
    parser.add_argument("--input", type=int, nargs="*", help="that tiles are resized to, a side each (default: theirs)")
    parser.add_argument("--preset", help="in place of that of params.yaml")
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training each (default: %(default)s)")
    parser.add_argument("--photographs", type=int, default=24, help="that train; a third as many validate")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--negatives", type=int, default=16, help="loss.least_negatives (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    keep_memory()
    third = max(args.photographs // 3, 1)
    write_scenes(args.folder / "raw", {"train": args.photographs, "val": third, "test": 1})
    of_sets = PrepareParams(train=["train"], val=["val"], test=["test"])
    prepare(args.folder / "raw", args.folder / "prepared", of_sets, 0)
    networks = {f"whole, {side}×{side}": {"model.image_size": [side, side]} for side in args.whole}
    for side, seen in zip(args.tile, args.input or args.tile, strict=True):
        cut = {"size": [side, side], "overlap": args.overlap}
        networks[f"tiles of {side}×{side} at {seen}"] = {"model.image_size": [seen, seen], "model.tile": cut}
    print(f"{'input':24} images/epoch  epochs   AP50     AP  training s  validation s", flush=True)
    for name, changes in networks.items():
        params = params_of(changes, args)
        run = train(params, args)
        last, seconds = run.history[-1], sum(row["time/train_s"] for row in run.history)
        print(
            f"{name:24} {run.images:12} {len(run.history):7} {last['val/map50']:6.3f} {last['val/map']:6.3f} "
            f"{seconds:11.0f} {last['time/validate_s']:13.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
