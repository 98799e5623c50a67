"""A detector as files that PyTorch runs without this project's code."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from ssd.export import EndToEnd
from ssd.prediction import Detector

DESCRIPTION = "description.json"  # the file inside that holds the metadata


def capture(module: EndToEnd) -> ExportedProgram:
    """The graph of a module, for any number and size of images."""
    images = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    sizes = {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's own NMS
        return torch.export.export(module, (images,), dynamic_shapes=(sizes,))


def write_torchscript(detector: Detector, description: dict[str, str], path: Path) -> None:
    """Write for `torch.jit.load(path)`; torchvision must be loaded there, for its NMS."""
    module = EndToEnd(detector.model, detector.detect).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what is constant here: numbers of anchors and classes
        traced = torch.jit.trace(module, torch.zeros(2, 96, 128, 3, dtype=torch.uint8), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={DESCRIPTION: json.dumps(description)})
