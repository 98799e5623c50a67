"""Can each preset learn eight real photographs by heart? `python -m benchmarks.overfit VOC_FOLDER [PRESET …]`.

A network that cannot has a fault somewhere between anchors, coder, matching, loss and detection. Prints AP at IoU 0.5
on the photographs themselves, whether an object could be found at all (fast.ai's coder moves a box by half a cell and
sizes it by ½ to 1½: from a 4×4 grid nothing small can be reached), and the time. The VGGs are a quarter as wide on
CPUs unless `--width` says otherwise. `--loss class_loss=focal box_loss=l1` changes the preset's loss by the names of
`ssd.losses.LossConfig`.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torchvision.ops import box_iou

from ssd.detection import detect
from ssd.images import decode, resize
from ssd.matching import match
from ssd.metrics import evaluate, flatten_found, flatten_truths
from ssd.model import SSD
from ssd.presets import PRESETS, Preset
from ssd.tasks import truths
from ssd.trainer import Batch, TrainConfig, Trainer

# Classes that a preset can reach: a 4×4 grid of one anchor has nothing for red cells in heaps, nor for platelets.
WITHIN_REACH = {"resnet34_grid": ["WBC"], "resnet34_multi": ["RBC", "WBC"]}
LR = {"ssd300_vgg16": 5e-4, "ssd512_vgg16": 5e-4, "resnet34_grid": 2e-4, "resnet34_multi": 2e-4}  # others 1e-3


def read_voc(folder: Path, count: int, classes: list[str]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Image uint8 [3, H, W], boxes [N, 4] in unit coordinates, labels [N] of the first photographs of `trainval`."""
    photographs = []
    for name in (folder / "ImageSets/Main/trainval.txt").read_text().split()[:count]:
        image = decode(next((folder / "JPEGImages").glob(f"{name}.*")).read_bytes())
        boxes, labels = [], []
        for item in ET.parse(folder / "Annotations" / f"{name}.xml").getroot().iter("object"):
            if item.findtext("name") in classes:
                sides = (item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
                left, top, right, bottom = map(float, sides)
                boxes.append([left - 1, top - 1, right, bottom])
                labels.append(classes.index(item.findtext("name")) + 1)
        sides = torch.tensor([image.shape[2], image.shape[1]] * 2, dtype=torch.float32)
        photographs.append((image, torch.tensor(boxes).view(-1, 4) / sides, torch.tensor(labels, dtype=torch.int64)))
    return photographs


def make_batch(photographs: list, preset: Preset) -> Batch:
    """All photographs in one batch, with what the preset's task asks for."""
    images, boxes, labels = [], [], []
    for image, box, label in photographs:
        images.append(resize(image, preset.model.image_size))
        box, label, *_ = truths(preset.model.task, box, label, label == 0, label == 0)
        boxes.append(box)
        labels.append(label)
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(torch.stack(images), pad(boxes, batch_first=True), pad(labels, batch_first=True))


def within_reach(model: SSD, batch: Batch, iou_threshold: float) -> float:
    """Share of objects that one of their anchors can be moved onto, to an IoU of at least ½."""
    matched = match(model.anchors, batch.boxes, batch.labels, iou_threshold)
    reached = 0
    for boxes, labels, index in zip(batch.boxes, batch.labels, matched):
        best = model.coder.decode(model.coder.encode(boxes[index.clamp(min=0)]))
        iou = box_iou(boxes[labels > 0], best).where(index == torch.arange(int((labels > 0).sum()))[:, None], 0)
        reached += int((iou.amax(dim=1) >= 0.5).sum())
    return reached / int((batch.labels > 0).sum())


def average_precision(trainer: Trainer, batch: Batch, preset: Preset, num_classes: int) -> float:
    """mAP at IoU 0.5 of the averaged model on the photographs it was trained on."""
    model = trainer.averaged_model.eval()
    with torch.inference_mode():
        logits, offsets = trainer.forward(batch.images, model)
        found = detect(model.scores(logits), offsets, model.coder, preset.detect)
    columns = zip(*(tuple(column.cpu().numpy() for column in one) for one in found))
    rows = [(boxes[labels > 0].cpu(), labels[labels > 0].cpu()) for boxes, labels in zip(batch.boxes, batch.labels)]
    truth = flatten_truths(*zip(*rows))
    return float(evaluate(flatten_found(*columns), truth, num_classes, (0.5,)).mean[0])


def overfit(name: str, args: argparse.Namespace) -> str:
    """Train until AP50 is 0.99 or the steps are used up; one row of the table."""
    preset, device = PRESETS[name], torch.device(args.device)
    width = args.width or (0.25 if "vgg16" in name and device.type == "cpu" else 1.0)
    if "vgg16" in name or width == 1.0:
        preset = replace(preset, model=replace(preset.model, width=width))
    if args.loss:
        loss = replace(preset.loss, **dict(args.loss))
        bias = preset.model.class_bias or (-4.6 if loss.class_loss == "focal" else 0.0)
        preset = replace(preset, loss=loss, model=replace(preset.model, scores=loss.scores, class_bias=bias))
    classes = WITHIN_REACH.get(name, ["Platelets", "RBC", "WBC"])
    batch = make_batch(read_voc(args.folder, args.photographs, classes), preset)
    torch.manual_seed(0)
    model = SSD(preset.model, len(classes))
    reach = 1.0
    if preset.model.task == "detection":
        reach = within_reach(model, batch, preset.loss.iou_threshold)
    batch = batch.to(device)
    lr = LR.get(name, 1e-3)
    settings = TrainConfig(lr=lr, warmup_steps=20, clip_norm=10.0, precision=args.precision, ema_decay=0.9)
    trainer = Trainer(model, settings, preset.loss, args.steps, device)
    start, best, taken = time.perf_counter(), 0.0, 0
    while taken < args.steps and best < 0.99:
        for _ in range(20):
            trainer.step(batch)
            taken += 1
        best = max(best, average_precision(trainer, batch, preset, len(classes)))
        if args.verbose:
            print(f"  step {taken}: AP50 {best:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    objects = int((batch.labels > 0).sum())
    return (
        f"{name:24} {preset.model.width:5g} {'+'.join(classes):18} {objects:7} {reach:9.2f} {taken:6} {best:6.3f} "
        f"{time.perf_counter() - start:6.0f}"
    )


def _named_value(text: str) -> tuple[str, str | float | int]:
    """`box_weight=5.0` as (box_weight, 5.0)."""
    name, _, value = text.partition("=")
    return name, yaml.safe_load(value)


def main() -> None:
    """Read the command line and print a row for each preset."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overfit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a VOC year with the classes of BCCD: …/VOCdevkit/VOC2007")
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="all by default")
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400, help="at most; 400 by default")
    parser.add_argument("--loss", nargs="+", type=_named_value, metavar="NAME=VALUE", help="instead of the preset's")
    parser.add_argument("--width", type=float, help="of the VGGs' channels")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    print(f"{'preset':24} width {'classes':18} objects reachable  steps   AP50      s")
    for name in args.presets or PRESETS:
        print(overfit(name, args), flush=True)


if __name__ == "__main__":
    main()
