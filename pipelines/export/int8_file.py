"""A detector as an ONNX file of 8-bit integers, for CPUs: smaller, and faster where they multiply bytes (VNNI, AMX)."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipelines.export.onnx_file import write_onnx
from pipelines.store.shards import Manifest, read_images, split_of
from ssd.images import decode
from ssd.prediction import Detector

PHOTOGRAPHS = 64  # of the training split, from which the ranges of activations are taken
# With convolutions alone as integers, each one's result goes through float32: slower, and 0.028 AP less on BCCD.
INTEGER = ("Add", "Clip", "Conv", "MaxPool", "Relu", "Resize")


def calibration_photographs(prepared: Path, manifest: Manifest) -> list[bytes]:
    """Encoded photographs of the first shard of the training split, evenly from its beginning to its end.

    Raises:
        ShardError: there is no such split, or the shard is missing or damaged.
    """
    rows = next((shard.rows for shard in split_of(manifest, "train").shards), 0)
    wanted = sorted({int(row) for row in np.linspace(0, rows - 1, min(PHOTOGRAPHS, rows))})
    found = read_images(prepared, manifest, "train", wanted)
    return [found[row] for row in wanted]


def write_int8(detector: Detector, description: dict[str, str], path: Path, photographs: Sequence[bytes]) -> None:
    """Write as `write_onnx` does, the network in integers of 8 bits; resize, decoding and NMS stay as they are.

    Static quantisation: weights of each output channel symmetric to 127, activations from their least to their
    greatest value on the photographs.

    Args:
        photographs: encoded, at least one.
    """
    described = description | {"ssd.quantized": json.dumps({"bits": 8, "photographs": len(photographs)})}
    with tempfile.TemporaryDirectory() as folder:
        plain, whole, quantized = (Path(folder) / name for name in ("plain.onnx", "whole.onnx", "int8.onnx"))
        write_onnx(detector, described, plain)
        quant_pre_process(plain, whole, skip_symbolic_shape=True)  # norms into convolutions, shapes of what is between
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                whole,
                quantized,
                _Photographs(photographs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(INTEGER),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(quantized)
        onnx.helper.set_model_props(model, described)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


class _Photographs(CalibrationDataReader):
    """Photographs one by one, as onnxruntime asks for them."""

    def __init__(self, photographs: Sequence[bytes]) -> None:
        self._rest: Iterator[bytes] = iter(photographs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one as a batch of its own; None after the last."""
        photograph = next(self._rest, None)
        if photograph is None:
            return None
        return {"images": decode(photograph).permute(1, 2, 0)[None].contiguous().numpy()}
