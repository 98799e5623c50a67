"""What we are measured against: the d2l.ai book's package and torchvision's SSD, as they are."""

from __future__ import annotations

import sys
import types
from types import ModuleType, SimpleNamespace

import torchvision
from torch import Tensor
from torchvision.models.detection import _utils, ssd
from torchvision.ops import box_iou

from benchmarks.paired import Missing
from ssd.detection import DetectConfig


def d2l() -> ModuleType:
    """The book's functions.

    Raises:
        Missing: the package, or one that it needs, is not installed.
    """
    names = ("IPython", "IPython.display", "matplotlib_inline", "matplotlib_inline.backend_inline")
    empty = {name: types.ModuleType(name) for name in names}  # d2l draws in notebooks with them; nothing is drawn here
    empty["IPython"].display = empty["IPython.display"]
    empty["matplotlib_inline"].backend_inline = empty["matplotlib_inline.backend_inline"]
    try:
        sys.modules.update(empty)
        from d2l import torch as package
    except ImportError as error:
        raise Missing(f"{error.name} (uv pip install --no-deps d2l==1.0.3 pandas requests scipy)") from error
    finally:
        for name in empty:  # others, Ray for one, look whether they run in a notebook
            del sys.modules[name]
    return package


def torchvision_ssd300(num_classes: int) -> ssd.SSD:
    """torchvision's SSD300 with random weights, background among its classes."""
    return torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)


def torchvision_parts(config: DetectConfig | None = None) -> SimpleNamespace:
    """What the methods `compute_loss` and `postprocess_detections` of torchvision's SSD read of it, without a network.

    The numbers are SSD's own, or those of `config`.
    """
    config = config or DetectConfig()
    return SimpleNamespace(
        box_coder=_utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        proposal_matcher=_utils.SSDMatcher(0.5),
        neg_to_pos_ratio=3.0,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_iou,
        topk_candidates=config.candidates_per_class,
        detections_per_img=config.max_detections,
    )


def torchvision_loss(parts: SimpleNamespace, outputs: dict, wanted: list[dict[str, Tensor]], anchors: Tensor) -> Tensor:
    """Match image by image, as in torchvision's `SSD.forward`, and sum the two losses."""
    matched = [parts.proposal_matcher(box_iou(one["boxes"], anchors)) for one in wanted]
    losses = ssd.SSD.compute_loss(parts, wanted, outputs, [anchors] * len(wanted), matched)
    return losses["bbox_regression"] + losses["classification"]


def torchvision_detect(parts: SimpleNamespace, outputs: dict, anchors: Tensor, size: tuple[int, int]) -> list[dict]:
    """torchvision's `postprocess_detections` of a batch."""
    count = len(outputs["bbox_regression"])
    return ssd.SSD.postprocess_detections(parts, outputs, [anchors] * count, [size] * count)
