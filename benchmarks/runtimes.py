"""Detection on CPUs in photographs/s: PyTorch beside ONNX files of the same network, `python -m benchmarks.runtimes`.

The files run in onnxruntime, and in OpenVINO where it is installed (`pip install openvino`).

Every round runs each candidate once on the same photographs, decoded before; the figures are medians. The network has
random weights, or those of `--weights`; the 8-bit file is calibrated on the photographs that it is timed with, which
says nothing of what it finds: `ssd compare FILE.onnx` does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.paired import machine, measure
from benchmarks.serving import photograph, random_state
from pipelines.export.int8_file import write_int8
from pipelines.export.model import Source, describe
from pipelines.export.onnx_file import write_onnx
from ssd.checkpoint import load
from ssd.images import decode
from ssd.prediction import Detector
from ssd.presets import PRESETS


def candidates(
    detector: Detector, encoded: list[bytes], folder: Path, threads: int, names: list[str]
) -> dict[str, Callable[[], object]]:
    """Calls that detect in all photographs at once, by what runs them."""
    images = [decode(one) for one in encoded]
    pixels = np.stack([image.permute(1, 2, 0).numpy() for image in images])

    def bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            detector.predict(images)

    calls: dict[str, Callable[[], object]] = {"torch fp32": lambda: detector.predict(images), "torch bf16": bf16}
    about = describe(Source(detector, "benchmark", "0" * 64), None)
    for name in names:
        runtime, kind = name.split()
        file = folder / f"{kind}.onnx"
        if runtime != "torch" and not file.exists():
            write_int8(detector, about, file, encoded) if kind == "int8" else write_onnx(detector, about, file)
        if runtime == "onnxruntime":
            session = _session(file, threads)
            calls[name] = lambda session=session: session.run(None, {"images": pixels})
        elif runtime == "openvino":
            compiled = _compiled(file, threads)
            calls[name] = lambda compiled=compiled: compiled([pixels])
    return {name: calls[name] for name in names}


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that wait busily would take time from whichever candidate comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _compiled(file: Path, threads: int) -> Callable[[list[np.ndarray]], object]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(file, "CPU", settings)


NAMES = ["torch fp32", "torch bf16", "onnxruntime fp32", "onnxruntime int8"]
NAMES += ["openvino fp32", "openvino int8"] if find_spec("openvino") else []


def main() -> None:
    """Read the command line, measure, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="ssd320_efficientnet_lite0", choices=sorted(PRESETS))
    parser.add_argument("--weights", help="weights file, in place of a network with random ones")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="photographs of 640×480 at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    detector = Detector(load(args.weights) if args.weights else random_state(args.network))
    print(f"{machine('cpu')}, load {os.getloadavg()[0]:.1f}; {args.weights or args.network}, {args.threads} threads, "
          f"batches of {args.batch}, {args.rounds} rounds")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        encoded = [photograph(seed) for seed in range(args.batch)]
        seconds = measure(candidates(detector, encoded, Path(folder), args.threads, args.only), args.rounds)
        first = args.only[0]
        for name, taken in seconds.items():
            beside = statistics.median(one / other for one, other in zip(seconds[first], taken))
            print(f"{name:18} {args.batch / statistics.median(taken):6.1f} photographs/s, {beside:.2f} × {first}")


if __name__ == "__main__":
    main()
