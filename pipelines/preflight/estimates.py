"""What a training will need, about: memory of a step, decoded images, checkpoints; nothing is computed to find out."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from pipelines.params import Params
from pipelines.store.shards import Manifest, Split
from ssd.coverage import anchors_per_map
from ssd.model import SSD, ModelConfig, map_sizes

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}  # a number of the network's outputs
# Against the resident size of a process that trained on CPUs, tiny_fine with 32 and 64 images and ssd300_vgg16 with 2,
# in fp32 and bf16: 4 to 24 % too much.
KEPT = 0.8  # share of the layers' outputs that a step keeps for its way back: rectifiers work in place
OF_LOSS = 10  # float32 copies of logits and offsets that the loss keeps
OF_PARAMETERS = 6  # float32 copies of the weights: these, gradients, average, two moments of AdamW, one for the update
OF_LIBRARIES = 256 << 20  # bytes that these allocate at the first step
CHECKPOINTS = 3  # on disk at a time: two, and the one that is being written
OF_CHECKPOINT = 5  # float32 copies of the weights in it: average, two moments, the best epoch's


@lru_cache
def sizes(config: ModelConfig, classes: int) -> tuple[int, int, int]:
    """How many numbers a network holds: its layers' outputs for one image, its weights, its logits and offsets."""
    outputs = 0

    def count(layer: nn.Module, _: tuple, output: object) -> None:
        nonlocal outputs
        if isinstance(output, Tensor):
            outputs += output[0].numel()

    with torch.device("meta"), torch.no_grad():  # shapes alone; two images, for batch norm takes no single number
        model = SSD(config, classes)
        for layer in model.modules():
            if not list(layer.children()):
                layer.register_forward_hook(count)
        model(torch.zeros(2, 3, *config.image_size))
    predicted = sum(anchors_per_map(config.anchors, map_sizes(config))) * (model.logits_an_anchor + 4)
    return outputs, sum(weights.numel() for weights in model.parameters()), predicted


def step_bytes(params: Params, classes: int, workers: int = 1) -> int:
    """Memory of one worker's training step beside the program itself."""
    outputs, weights, predicted = sizes(params.model, classes)
    images = -(-params.train.batch_size // workers)
    height, width = params.model.image_size
    an_image = outputs * BYTES[params.train.precision] * KEPT + predicted * 4 * OF_LOSS + 3 * height * width * 5
    return round(images * an_image + weights * 4 * OF_PARAMETERS) + OF_LIBRARIES


def decoded_bytes(params: Params, manifest: Manifest) -> int:
    """Decoded images of the splits that training reads, in SSD_HOME."""
    splits = {name: manifest.splits[name] for name in ("train", "val") if name in manifest.splits}
    if params.model.tile != "none":  # whole photographs
        return round(sum(split.images * 3 * _photograph(split) for split in splits.values()))
    total = 0
    for name, split in splits.items():
        side, kept = math.sqrt(_photograph(split)), params.model.image_size
        if name == "train" and side:  # crops may be cut from more pixels than the network sees
            kept = params.augment.source_size((side, side), kept)
        total += split.images * 3 * math.prod(kept)
    return total


def _photograph(split: Split) -> float:
    """Pixels of a photograph, about: those by which a middling box in pixels is that share of its photograph."""
    middle = "0.50"
    if not split.box_sizes_unit.get(middle):
        return 0.0
    return (split.box_sizes_pixels[middle] / split.box_sizes_unit[middle]) ** 2


def checkpoint_bytes(params: Params, classes: int) -> int:
    """Checkpoints of the training and of the search's trials, in SSD_HOME."""
    _, weights, _ = sizes(params.model, classes)
    return (params.tune.trials + 1) * CHECKPOINTS * OF_CHECKPOINT * 4 * weights
