"""The detector over parts of a listing: Ray Data's tasks read and decode, its actors answer with boxes.

A part is a block of Ray Data's, and a batch a row of it, so that the same photographs share a batch every time,
whichever parts are missing and however many actors there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow.fs import FileSystem
from torch import Tensor

from pipelines import score
from pipelines.cluster.ray import place_actors, quiet_ray_data, ray_cluster
from pipelines.onnx_detector import OnnxDetector, open_detector
from pipelines.score.photographs import Encoded, read_photographs
from pipelines.score.source import Source
from pipelines.settings import set_defaults
from ssd.images import decode
from ssd.model import ModelConfig
from ssd.prediction import Detector, prepare

BATCH = 16  # photographs that go through the network together
GLANCE = 256  # pixels a side, about, that brightness is computed from
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow has it
RESULTS = pa.schema(
    {
        "file": pa.string(),
        "error": pa.string(),  # why there are no results; null where there are
        "height": pa.int32(),
        "width": pa.int32(),
        "brightness": pa.float32(),  # mean grey, 0 to 255
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),  # xyxy in 0-based pixels of the upright photograph
        "labels": pa.list_(pa.int64()),  # 1..C
        "classes": pa.list_(pa.string()),  # their names
        "scores": pa.list_(pa.float32()),  # calibrated
    }
)


def detect_parts(
    source: Source,
    parts: Sequence[int],
    size: int,
    state: dict[str, Any] | bytes,
    config: ModelConfig,
    lowest: float | None,
) -> Iterator[tuple[int, pa.Table]]:
    """Score some parts of a source; yields each as soon as it is complete, with rows of RESULTS.

    Args:
        parts: numbers; part k has the photographs from k · `size` on.
        state: see `pipelines.onnx_detector.open_detector`. config: the model's.
        lowest: score that counts; None: the model's own of each class.
    """
    # Ray prints an error where an actor gets an object by reference and may restart; ours outlives all actors.
    set_defaults({"RAY_BACKEND_LOG_LEVEL": "fatal"})
    send_code_along()
    with ray_cluster() as resources:
        answer = {"state": state, "lowest": lowest}
        tables = _answers(source, parts, size, config, answer, place_actors(resources))
        yield from whole_parts(tables, size, len(source.listing))


def send_code_along() -> None:
    """Have Ray send this tool's functions themselves: its files are in no package, see `pipelines.cluster.package`."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(score)


def _answers(
    source: Source, parts: Sequence[int], size: int, config: ModelConfig, answer: dict[str, Any], actors: dict
) -> Iterator[pa.Table]:
    """Results of batches as they come, with the number of their part and their place in it."""
    import ray
    import ray.data

    context = quiet_ray_data()
    context.target_max_block_size = 16 << 20  # bytes that are decoded before the detector gets them
    blocks = [_block(source.listing, part, size) for part in parts]
    batches = ray.data.from_arrow(blocks).map_batches(
        read_part,
        fn_kwargs={"filesystem": source.filesystem, "config": config},
        batch_format="pyarrow",
        batch_size=None,
    )
    found = batches.map_batches(
        DetectPhotographs,
        fn_constructor_kwargs=answer | {"state": ray.put(answer["state"]), "threads": actors["threads"]},
        batch_format="numpy",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors["count"]),
        num_cpus=0,  # what actors book, readers lack: on a single CPU, even half a one stops Ray Data for good
        num_gpus=actors["gpu"],
    )
    return found.iter_batches(batch_size=None, batch_format="pyarrow")


def _block(listing: pa.Table, part: int, size: int) -> pa.Table:
    rows = listing.slice(part * size, size).combine_chunks()
    return rows.append_column("part", pa.array([part] * len(rows), pa.int64()))


def whole_parts(tables: Iterable[pa.Table], size: int, total: int) -> Iterator[tuple[int, pa.Table]]:
    """Parts of `size` photographs of `total`, as soon as all their batches have come, in whichever order."""
    waiting: dict[int, list[tuple[int, pa.Table]]] = {}
    for table in tables:
        for part, start in sorted(set(zip(table["part"].to_pylist(), table["start"].to_pylist()))):
            of_batch = (np.array(table["part"]) == part) & (np.array(table["start"]) == start)
            rows = table.filter(pa.array(of_batch)).select(RESULTS.names).cast(RESULTS)
            waiting.setdefault(part, []).append((start, rows))
            due = min(size, total - part * size)
            if sum(len(rows) for _, rows in waiting[part]) == due:
                batches = sorted(waiting.pop(part), key=lambda batch: batch[0])
                yield part, pa.concat_tables([rows for _, rows in batches]).combine_chunks()


def read_part(rows: pa.Table, filesystem: FileSystem, config: ModelConfig) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a part as the detector takes them, each in one row: `pixels` of `prepare`, and `facts` as JSON.

    Photographs in tiles come one by one: the tiles of several large ones would not fit into memory.
    """
    number = rows["part"][0].as_py()
    names, photographs = rows["file"].to_pylist(), read_photographs(rows, filesystem)
    step = BATCH if config.tile == "none" else 1
    for start in range(0, len(names), step):
        facts, pixels = [], []
        for file, encoded in zip(names[start : start + step], photographs):
            fact, seen = _look(encoded, config)
            facts.append({"file": file} | fact)
            pixels += [] if seen is None else [seen]
        # A row has to hold some pixels, also where no photograph can be read.
        stacked = torch.cat(pixels) if pixels else torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
        row = {"part": number, "start": start, "facts": json.dumps(facts)}
        yield {name: np.array([value]) for name, value in row.items()} | {"pixels": stacked.numpy()[None]}


def _look(encoded: Encoded, config: ModelConfig) -> tuple[dict[str, Any], Tensor | None]:
    """What is known of a photograph before the detector sees it, and what the network takes."""
    if encoded.problem:
        return {"error": encoded.problem}, None
    try:
        image = decode(encoded.content, encoded.size)
    except ValueError as error:
        return {"error": str(error)}, None
    height, width = image.shape[-2:]
    fact = {"error": None, "height": height, "width": width, "brightness": brightness(image)}
    return fact, prepare(image, config)


def brightness(image: Tensor) -> float:
    """Mean grey, 0 to 255, of an image uint8 [3, H, W], from some of its pixels."""
    step = max(min(image.shape[-2:]) // GLANCE, 1)
    means = image[:, ::step, ::step].double().mean((1, 2))
    return round(float(means @ means.new_tensor(LUMA)), 2)


class DetectPhotographs:
    """What each actor does: keep one detector, and answer batches of `read_part` with rows of RESULTS."""

    def __init__(self, state: Any, lowest: float | None, threads: int):
        """Build the detector from a reference to the weights' state, on the actor's GPU where it has one."""
        import ray

        torch.set_num_threads(threads)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.detector = open_detector(ray.get(state), "the model", device, threads)
        self.lowest = lowest

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        """Detect in a batch."""
        return detect_batch(self.detector, rows, self.lowest)


def detect_batch(detector: Detector | OnnxDetector, rows: dict[str, np.ndarray], lowest: float | None) -> pa.Table:
    """Rows of RESULTS for a row of `read_part`, with the `part` and `start` of their batch."""
    facts = json.loads(str(rows["facts"][0]))
    seen = [fact for fact in facts if fact["error"] is None]
    pixels = torch.tensor(np.asarray(rows["pixels"][0]))  # a copy: Ray's array is read-only
    sizes = [(fact["height"], fact["width"]) for fact in seen]
    for fact, found in zip(seen, detector.predict_likely_prepared([pixels], sizes, lowest)):
        fact |= {name: getattr(found, name).tolist() for name in ("boxes", "labels", "scores")}
        fact["classes"] = detector.names(found.labels)
    places = RESULTS.append(pa.field("part", pa.int64())).append(pa.field("start", pa.int64()))
    same = {"part": int(rows["part"][0]), "start": int(rows["start"][0])}
    return pa.Table.from_pylist([fact | same for fact in facts], schema=places)
