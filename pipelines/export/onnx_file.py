"""A detector as an ONNX file."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.export import ExportedProgram

from pipelines.export import onnx_operators
from pipelines.export.torch_file import capture
from ssd.export import EndToEnd, Exported, resize_batch, suppress_groups
from ssd.prediction import Detector

PRODUCER = "ssd-pipeline"


def write_onnx(detector: Detector, description: dict[str, str], path: Path) -> None:
    """Write the detector from uint8 photographs [batch, height, width, 3] to the fields of `ssd.export.Exported`.

    Args:
        detector: of whole photographs.
        description: becomes the file's metadata.
    """
    program = capture(EndToEnd(detector.model, detector.detect, *operators()).eval())
    model = convert(program, list(Exported._fields))
    _name_sizes(model, ("batch", "height", "width"))
    model.producer_name, model.producer_version = PRODUCER, description["ssd.project_version"]
    model.doc_string = "SSD detector: images uint8 [batch, height, width, 3] RGB; boxes xyxy in pixels of the images"
    onnx.helper.set_model_props(model, description)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def convert(program: ExportedProgram, outputs: list[str]) -> onnx.ModelProto:
    """The graph of images in ONNX's operators.

    Args:
        program: of `capture`; it may have those of `operators`.
        outputs: their names.
    """
    resize, suppress = operators()
    translations = {resize.default: onnx_operators.resize, suppress.default: onnx_operators.suppress}
    with _quiet():
        return torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=outputs,
            opset_version=onnx_operators.OPSET,
            custom_translation_table=translations,
        ).model_proto


def _name_sizes(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Name what varies of the one input's shape, wherever it occurs."""
    (images,) = model.graph.input
    new = {dim.dim_param: name for dim, name in zip(images.type.tensor_type.shape.dim, names)}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in new:
                dim.dim_param = new[dim.dim_param]


@functools.cache
def operators():
    """Resize and NMS as single operators that the exporter meets and translates; made once a process."""

    @torch.library.custom_op("ssd_export::resize", mutates_args=())
    def resize(images: Tensor, height: int, width: int) -> Tensor:
        return resize_batch(images.contiguous(), height, width)

    @resize.register_fake
    def _(images, height, width):
        return images.new_empty(images.shape[0], 3, height, width)

    @torch.library.custom_op("ssd_export::suppress", mutates_args=())
    def suppress(boxes: Tensor, scores: Tensor, score_threshold: float, iou: float) -> Tensor:
        return suppress_groups(boxes, scores, score_threshold, iou)

    @suppress.register_fake
    def _(boxes, scores, score_threshold, iou):
        return torch.empty_like(scores, dtype=torch.bool)

    return torch.ops.ssd_export.resize, torch.ops.ssd_export.suppress


@contextlib.contextmanager
def _quiet():
    """Hold back the exporter's progress and advice; its errors are raised all the same."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
