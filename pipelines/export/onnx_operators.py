"""Resize and NMS in ONNX's operators, where PyTorch's own have no exact counterpart."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxscript import opset18 as op

OPSET = 18
BLOCK = 32  # pixels of the resized image that are computed together


def resize(images, height: int, width: int):
    """Resize uint8 [B, 3, H, W] to the bit as `ssd.images.resize` does on CPUs with AVX2 or NEON.

    ONNX's own `Resize` with antialias differs by up to 14 grey levels in onnxruntime 1.32. PyTorch resizes uint8 in
    integers: along the width and then along the height, each time with weights of 16 bits, and rounds to uint8
    (`upsample_avx_bilinear_bicubic_uint8` in ATen). Here the same weights form a matrix, made in the graph from the
    size of the image. `MatMulInteger` takes factors of 8 bits: a high and a low part of each weight.
    """
    shape = op.Shape(images)
    for axis, side in ((3, width), (2, height)):
        images = _resized(images, axis, op.Gather(shape, _constant(axis, np.int64)), side)
    return images


def _resized(images, axis: int, length, side: int):
    """Images [B, 3, H, W] resized along one axis from `length` to `side`.

    BLOCK pixels at a time, each block from the pixels that it is made of: most of the weights are 0.
    """
    high, low, one = _weights(length, side)
    firsts = np.arange(0, side, BLOCK)
    lasts = np.minimum(firsts + BLOCK, side)
    starts, ends = _reach(firsts, lasts, length, side)
    blocks = []
    for block, (first, last) in enumerate(zip(firsts, lasts)):
        start, end = (op.Gather(bounds, _constant([block], np.int64)) for bounds in (starts, ends))
        pixels = op.Slice(images, start, end, _constant([axis], np.int64))
        sums = []
        for part in (high, low):
            rows = op.Slice(part, _constant([first], np.int64), _constant([last], np.int64), _constant([0], np.int64))
            own = op.Slice(rows, start, end, _constant([1], np.int64))
            along = (pixels, op.Transpose(own, perm=[1, 0])) if axis == 3 else (own, pixels)
            sums.append(op.MatMulInteger(*along))
        blocks.append(_rounded(*sums, one))
    return op.Concat(*blocks, axis=axis)


def _reach(firsts: np.ndarray, lasts: np.ndarray, length, side: int):
    """Which pixels the blocks are made of, and one more at both ends: their first and the one after their last."""
    scale = op.Div(op.Cast(length, to=TensorProto.DOUBLE), _constant(side, np.float64))
    support = op.Max(scale, _constant(1, np.float64))
    starts = op.Floor(op.Sub(op.Mul(_constant(firsts + 0.5, np.float64), scale), support))
    ends = op.Ceil(op.Add(op.Mul(_constant(lasts - 0.5, np.float64), scale), support))
    starts = op.Max(op.Sub(starts, _constant(1, np.float64)), _constant(0, np.float64))
    ends = op.Add(ends, _constant(1, np.float64))
    return op.Cast(starts, to=TensorProto.INT64), op.Cast(ends, to=TensorProto.INT64)


def suppress(boxes, scores, score_threshold: float, iou: float):
    """`ssd.export.suppress_groups` by NonMaxSuppression: a group is an image with one class there."""
    most = op.Shape(scores, start=1, end=2)
    limits = _constant([iou], np.float32), _constant([score_threshold], np.float32)
    picked = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, _constant([1], np.int64)), most, *limits)
    places = op.Gather(picked, _constant([0, 2], np.int64), axis=1)
    nothing = op.Expand(_constant(False, np.bool_), op.Shape(scores))
    return op.ScatterND(nothing, places, op.Expand(_constant(True, np.bool_), op.Shape(places, start=0, end=1)))


def _weights(length, side: int):
    """What each of `side` pixels takes of each of `length`: weights · 2^p as high and low bytes [side, length]; 2^p.

    The triangle filter in float64; p is the most bits with which the largest weight stays under 2^15.
    """
    number, half = (_constant(value, np.float64) for value in (side, 0.5))
    scale = op.Div(op.Cast(length, to=TensorProto.DOUBLE), number)
    centres = op.Mul(_constant(np.arange(side)[:, None] + 0.5, np.float64), scale)
    narrower = op.Div(_constant(1, np.float64), op.Max(scale, _constant(1, np.float64)))
    pixels = op.Range(_constant(0, np.int64), length, _constant(1, np.int64))
    distances = op.Mul(op.Add(op.Sub(op.Cast(pixels, to=TensorProto.DOUBLE), centres), half), narrower)
    weights = op.Max(op.Sub(_constant(1, np.float64), op.Abs(distances)), _constant(0, np.float64))
    weights = op.Div(weights, op.ReduceSum(weights, _constant([1], np.int64)))
    scaled = op.Mul(op.ReduceMax(weights, keepdims=0), _constant(2.0 ** np.arange(1, 23), np.float64))
    fits = op.Less(op.Floor(op.Add(scaled, half)), _constant(2**15, np.float64))
    bits = op.ReduceSum(op.Cast(fits, to=TensorProto.INT64), _constant([0], np.int64), keepdims=0)
    one = op.Gather(_constant(2.0 ** np.arange(23), np.float64), bits)
    weights = op.Floor(op.Add(op.Mul(weights, one), half))
    high = op.Floor(op.Div(weights, _constant(256, np.float64)))
    low = op.Sub(weights, op.Mul(high, _constant(256, np.float64)))
    high, low = (op.Cast(part, to=TensorProto.UINT8) for part in (high, low))
    return high, low, op.Cast(one, to=TensorProto.INT32)


def _rounded(high, low, one):
    """(256·high + low) / one of int32, rounded to uint8."""
    total = op.Add(op.Mul(high, _constant(256, np.int32)), low)
    value = op.Div(op.Add(total, op.Div(one, _constant(2, np.int32))), one)
    return op.Cast(op.Min(value, _constant(255, np.int32)), to=TensorProto.UINT8)


def _constant(value, dtype):
    return op.Constant(value=numpy_helper.from_array(np.asarray(value, dtype)))
