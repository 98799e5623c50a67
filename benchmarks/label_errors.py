"""How many planted label errors the first of the suspects are: `python -m benchmarks.label_errors --data PREPARED`.

Of all boxes of prepared data, in every split, 5 % are spoilt, a quarter of them in each way: `removed`; `added` where
nothing is, with the shape of another box; `moved` by a quarter to a half of its sides; `renamed` to another class. A
model is trained on the spoilt data, as params.yaml says, and `pipelines.relabel` ranks what it suspects. Counted is how
many of the planted errors are among the first 5 % of the list: as many places as there are errors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.anchors.__main__ import parse_settings
from pipelines.evaluate.inference import decode_rows, detect_rows
from pipelines.params import load_draft
from pipelines.prepare.records import Record
from pipelines.prepare.shard_writer import write_split
from pipelines.recipe.resolve import resolve_for
from pipelines.relabel.suspects import SUSPECTS, Suspect, box_of, find_suspects, write_suspects
from pipelines.relabel.suspicion import MISPLACED, OVERLOOKED, SAME_PLACE, SPURIOUS, SWAPPED
from pipelines.store.shards import MANIFEST, VERSION, Manifest, digest, read_boxes, read_manifest, read_records
from pipelines.training.initial_weights import initial_weights
from pipelines.training.loop import Job, fit
from ssd.checkpoint import load, read_config, save
from ssd.memory import keep_memory
from ssd.prediction import Detector

KINDS = {"removed": OVERLOOKED, "added": SPURIOUS, "moved": MISPLACED, "renamed": SWAPPED}  # and as what it is found
FREE = 0.2  # IoU with any other box that an added one may have, at most
TRIES = 50  # places for an added box
SHARD_BYTES = 16 << 20
PLANTED = "planted.json"
BATCH = 16  # images that are detected in at once


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU [N] of a box [4] with boxes [N, 4]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    both = sides.clip(0).prod(1)
    return both / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - both)


class Spoiler:
    """Plants errors, one after the other, into rows of `read_records`; `planted` says what was done."""

    def __init__(self, rows: list[dict], classes: Sequence[str], rng: np.random.Generator):
        self.rows, self.classes, self.rng = rows, classes, rng
        self.planted: list[dict[str, Any]] = []

    def spoil(self, share: float) -> None:
        """Spoil a share of all boxes that are neither crowds nor difficult, a quarter of them in each way."""
        boxes = [
            (row, i)
            for row in self.rows
            for i in range(len(row["labels"]))
            if not (row["iscrowd"][i] or row["difficult"][i])
        ]
        chosen = self.rng.permutation(len(boxes))[: round(share * len(boxes))]
        kinds = [kind for kind in KINDS if kind != "renamed" or len(self.classes) > 1]
        shapes = [self.rng.integers(len(boxes)) for _ in chosen]
        for number, (at, shape) in enumerate(zip(chosen, shapes)):
            row, i = boxes[at]
            kind = kinds[number % len(kinds)]
            before = {"box": list(row["boxes"][i]), "label": row["labels"][i]}
            after = getattr(self, f"_{kind}")(row, i, boxes[shape])
            note = {"image_id": row["image_id"], "split": row["split"], "kind": kind}
            self.planted.append(note | {"before": before if kind != "added" else None, "after": after})
        for row in self.rows:
            kept = [i for i, label in enumerate(row["labels"]) if label]
            for name in ("boxes", "labels", "difficult", "iscrowd"):
                row[name] = [row[name][i] for i in kept]

    def _removed(self, row: dict, i: int, _: tuple) -> None:
        row["labels"][i] = 0  # taken out at the end: until then the others keep their numbers

    def _added(self, row: dict, _: int, shape: tuple[dict, int]) -> dict | None:
        """Somewhere in the same photograph; nothing where no place is free."""
        left, top, right, bottom = shape[0]["boxes"][shape[1]]
        sides, limits = np.array([right - left, bottom - top]), np.array([row["width"], row["height"]])
        sides = np.minimum(sides, limits - 1)
        for _ in range(TRIES):
            corner = self.rng.uniform(0, limits - sides)
            box = np.round(np.concatenate([corner, corner + sides]))
            if iou(box, np.array(row["boxes"]).reshape(-1, 4)).max(initial=0) <= FREE:
                after = {"box": box.tolist(), "label": shape[0]["labels"][shape[1]] or 1}
                for name, value in {**after, "difficult": False, "iscrowd": False}.items():
                    row[{"box": "boxes", "label": "labels"}.get(name, name)].append(value)
                return after
        return None

    def _moved(self, row: dict, i: int, _: tuple) -> dict:
        box = np.array(row["boxes"][i])
        sides, limits = box[2:] - box[:2], np.array([row["width"], row["height"]])
        step = self.rng.uniform(0.25, 0.5, 2) * sides * self.rng.choice([-1, 1], 2)
        inwards = np.where(box[:2] + step < 0, 1, np.where(box[2:] + step > limits, -1, np.sign(step)))
        step = np.abs(step) * inwards
        moved = np.round(np.concatenate([(box[:2] + step).clip(0), np.minimum(box[2:] + step, limits)]))
        row["boxes"][i] = moved.tolist()
        return {"box": moved.tolist(), "label": row["labels"][i]}

    def _renamed(self, row: dict, i: int, _: tuple) -> dict:
        others = [label for label in range(1, len(self.classes) + 1) if label != row["labels"][i]]
        row["labels"][i] = int(self.rng.choice(others))
        return {"box": list(row["boxes"][i]), "label": row["labels"][i]}


def plant(prepared: Path, out: Path, share: float, seed: int) -> list[dict[str, Any]]:
    """Write a copy of prepared data with errors in it to `out`, and what was planted beside it."""
    manifest = read_manifest(prepared)
    rows = [
        row | {"split": split}
        for split in manifest.splits
        for batch in read_records(prepared, manifest, split)
        for row in batch.to_pylist()
    ]
    spoiler = Spoiler(rows, manifest.classes, np.random.default_rng(seed))
    spoiler.spoil(share)
    planted = [error for error in spoiler.planted if error["kind"] != "added" or error["after"]]
    classes = list(manifest.classes)
    splits = {name: write_split(out, name, to_records(rows, name), classes, SHARD_BYTES) for name in manifest.splits}
    spoilt = Manifest(
        version=VERSION,
        layout=manifest.layout,
        classes=classes,
        digest=digest(classes, splits),
        quarantined=manifest.quarantined,
        splits=splits,
    )
    (out / PLANTED).write_text(json.dumps(planted), encoding="utf-8")
    (out / MANIFEST).write_text(spoilt.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return planted


def to_records(rows: list[dict], split: str) -> Iterator[Record]:
    """Rows of a split as `write_split` takes them."""
    for row in rows:
        if row["split"] == split:
            yield Record(
                row["image_id"],
                row["image"]["path"],
                row["image"]["bytes"],
                row["height"],
                row["width"],
                np.array(row["boxes"], np.float32).reshape(-1, 4),
                np.array(row["labels"], np.int64),
                np.array(row["difficult"], bool),
                np.array(row["iscrowd"], bool),
                *[np.zeros(len(row["labels"]), bool)] * 2,  # none is marked truncated or occluded
                1,
                np.zeros(0),
            )


def train(prepared: Path, out: Path, overrides: dict[str, Any], seed: int, device: str) -> dict[str, Any]:
    """Train params.yaml with overrides on prepared data; the best epoch's weights go to `out`."""
    keep_memory()
    params = resolve_for(load_draft(overrides=overrides), read_manifest(prepared), prepared).params({"seed": seed})
    weights = initial_weights(params)

    def report(metrics: dict[str, float], _: Any) -> None:
        if metrics:
            print(f"  epoch {metrics['epoch']}: AP {metrics.get('val/map', float('nan')):.3f}", flush=True)

    job = Job(params, prepared, prepared.parent / "cache", 0, weights.path if weights else None)
    state = fit(job, report, device=device).best["model"]
    save(state, out)
    return load(out)


def suspects_of(state: dict[str, Any], prepared: Path, splits: Sequence[str], device: str) -> list[Suspect]:
    """What `ssd relabel suspects` lists, in this process."""
    manifest, detector = read_manifest(prepared), Detector(state, device)
    truths: dict[str, list[dict]] = {}
    found: dict[str, list[dict]] = {}
    for split in splits:
        truths[split] = read_boxes(prepared, manifest, split)
        found[split] = []
        for batch in read_records(prepared, manifest, split, ["image_id", "height", "width", "image"]):
            for start in range(0, len(batch), BATCH):
                rows = pa.Table.from_batches([batch.slice(start, BATCH)])
                found[split] += detect_rows(detector, decode_rows(rows, read_config(state).image_size)).to_pylist()
    return find_suspects(truths, found, manifest.classes, trained=True)


def shows(one: Suspect, error: dict[str, Any]) -> bool:
    """Whether one who looks at a suspect sees a planted error: its box, or a suggestion where an object was."""
    if one.image_id != error["image_id"] or one.split != error["split"]:
        return False
    given, suggested = (np.array(box_of(text)) for text in (one.given_box, one.suggested_box))
    before, after = error["before"], error["after"]
    if after and given.size and np.abs(given - after["box"]).max() < 0.1:
        return True
    if error["kind"] not in ("removed", "moved") or not suggested.size:
        return False
    return iou(suggested, np.array([before["box"]])).max() >= SAME_PLACE


def ranks(suspects: Sequence[Suspect], planted: Sequence[dict[str, Any]]) -> list[int | None]:
    """The place in the list, counted from 0, of the first suspect that shows each error; None where none does."""
    by_image: dict[str, list[int]] = {}
    for place, one in enumerate(suspects):
        by_image.setdefault(one.image_id, []).append(place)
    return [
        next((place for place in by_image.get(error["image_id"], ()) if shows(suspects[place], error)), None)
        for error in planted
    ]


def table(suspects: Sequence[Suspect], planted: Sequence[dict[str, Any]], share: float) -> Iterator[str]:
    """Rows of Markdown: of each kind and split, how many errors are among the first of the list."""
    places, many = ranks(suspects, planted), len(planted)
    splits = list(dict.fromkeys(error["split"] for error in planted))
    yield f"| planted | {' | '.join(splits)} | all | in the first {2 * share:.0%} | first of its kind |"
    yield "|---|" + "---|" * (len(splits) + 3)
    of_kind = 0
    for kind in (*KINDS, "all"):
        mine = [(error, place) for error, place in zip(planted, places) if kind in (error["kind"], "all")]

        def count(split: str, most: int, mine: list = mine) -> str:
            some = [place for error, place in mine if split in (error["split"], "all")]
            return f"{sum(place is not None and place < most for place in some)} of {len(some)}"

        if kind in KINDS:  # as many places of the list of this kind alone as errors of it
            alone = [one for one in suspects if one.kind == KINDS[kind]][: len(mine)]
            found = sum(place is not None for place in ranks(alone, [error for error, _ in mine]))
            of_kind += found
        else:
            found = of_kind
        cells = [*(count(split, many) for split in (*splits, "all")), count("all", 2 * many)]
        yield f"| {kind} | {' | '.join(cells)} | {found} of {len(mine)} |"
    right = sum(any(shows(one, error) for error in planted) for one in suspects[:many])
    yield f"\nOf the first {many} suspects {right} show a planted error."


def main() -> None:
    """Plant, train unless there is a model, rank, and count."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.label_errors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="PREPARED", help="shards, as `prepare` writes them")
    parser.add_argument("--model", type=Path, help="weights that were trained on the spoilt data (default: train)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of params.yaml; repeatable")
    parser.add_argument("--share", type=float, default=0.05, help="of the boxes that is spoilt (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", help="that are looked through (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/label_errors"), help="default: %(default)s")
    args = parser.parse_args()
    spoilt = args.out / "prepared"
    if not (spoilt / MANIFEST).exists():
        plant(args.data, spoilt, args.share, args.seed)
    planted = json.loads((spoilt / PLANTED).read_text(encoding="utf-8"))
    model = args.model or args.out / "model.pt"
    state = load(model) if model.exists() else train(spoilt, model, parse_settings(args.set), args.seed, args.device)
    splits = args.splits or list(read_manifest(spoilt).splits)
    planted = [error for error in planted if error["split"] in splits]
    suspects = suspects_of(state, spoilt, splits, args.device)
    write_suspects(args.out / SUSPECTS, suspects)
    for line in table(suspects, planted, args.share):
        print(line)


if __name__ == "__main__":
    main()
