"""A detector over a whole split: Ray Data's tasks read and decode shards, its actors answer with boxes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.cluster.ray import ClusterError, place_actors, quiet_ray_data, ray_cluster
from pipelines.live import LiveLines
from pipelines.settings import set_defaults
from pipelines.store.s3 import object_store
from pipelines.store.shard_transfer import object_prefix
from pipelines.store.shards import Manifest, split_of, verify
from ssd.checkpoint import read_config
from ssd.detection import DetectConfig
from ssd.images import decode, resize
from ssd.model import ModelConfig
from ssd.prediction import TILES_AT_ONCE, Detector, Prediction, merge_predictions
from ssd.tiles import TileConfig, cut_tile, grid

MOST_BLOCKS = 200  # parts of a split that are decoded at a time, at most
FOUND = ("boxes", "labels", "scores")
PREDICTIONS = pa.schema(
    {
        "image_id": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),
        "labels": pa.list_(pa.int64()),
        "scores": pa.list_(pa.float32()),
    }
)
TILES = PREDICTIONS.append(pa.field("number", pa.int64()))


def decode_rows(rows: pa.Table, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Shard rows as the detector takes them: `pixels` uint8 [N, 3, *size] beside image_id, height and width.

    Raises:
        ValueError: an image cannot be decoded, naming it.
    """
    columns = {name: rows[name].to_numpy() for name in ("image_id", "height", "width")}
    pixels = np.empty((len(rows), 3, *size), np.uint8)
    for row, image in enumerate(_decoded(rows)):
        pixels[row] = resize(image, size).numpy()
    return columns | {"pixels": pixels}


def decode_tiles(rows: pa.Table, config: ModelConfig) -> Iterator[dict[str, np.ndarray]]:
    """As `decode_rows`, but a row for each tile of the photographs, with its `number` in `ssd.tiles.grid`."""
    columns = rows.select(["image_id", "height", "width"]).to_pylist()
    for photograph, image in zip(columns, _decoded(rows)):
        tiles = grid(image.shape[-2:], config.tile)
        for start in range(0, len(tiles), TILES_AT_ONCE):
            some = tiles[start : start + TILES_AT_ONCE]
            pixels = np.stack([resize(cut_tile(image, one, config.mean), config.image_size) for one in some])
            repeated = {name: np.array([value] * len(some)) for name, value in photograph.items()}
            yield repeated | {"number": np.arange(start, start + len(some)), "pixels": pixels}


def _decoded(rows: pa.Table) -> Iterator[Tensor]:
    columns = (rows[name].to_pylist() for name in ("image_id", "height", "width"))
    for image_id, height, width, image in zip(*columns, rows["image"]):
        try:
            yield decode(image["bytes"].as_py(), (height, width))
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}; run `dvc repro -f prepare`") from None


def detect_rows(detector: Detector, rows: dict[str, np.ndarray]) -> pa.Table:
    """Rows of PREDICTIONS for what `decode_rows` returned; boxes are xyxy, in 0-based pixels of the record.

    For tiles of `decode_tiles` they are rows of TILES, boxes in pixels from the tile's corner.
    """
    pixels = torch.tensor(rows["pixels"])  # a copy: Ray's array is read-only
    schema, sizes = PREDICTIONS, list(zip(rows["height"], rows["width"]))
    if "number" in rows:
        schema, sizes = TILES, [detector.model.config.tile.size] * len(pixels)
    found = detector.predict_batch(pixels, sizes)
    columns = {name: rows[name] for name in schema.names if name not in FOUND}
    columns |= {name: [getattr(one, name).tolist() for one in found] for name in FOUND}
    return pa.table(columns, schema=schema)


def merge_tiles(tables: Iterable[pa.Table], tile: TileConfig, config: DetectConfig) -> Iterator[pa.Table]:
    """PREDICTIONS of each photograph, as soon as all its tiles have come in tables of TILES."""
    waiting: dict[str, dict[int, Prediction]] = {}
    for table in tables:
        for row in table.to_pylist():
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
            one = Prediction(boxes, np.array(row["labels"], np.int64), np.array(row["scores"], np.float32))
            size, found = (row["height"], row["width"]), waiting.setdefault(row["image_id"], {})
            found[row["number"]] = one
            tiles = grid(size, tile)
            if len(found) == len(tiles):
                whole = merge_predictions(tiles, [found[number] for number in range(len(tiles))], size, config)
                del waiting[row["image_id"]]
                merged = {name: row[name] for name in ("image_id", "height", "width")}
                merged |= {name: getattr(whole, name).tolist() for name in FOUND}
                yield pa.Table.from_pylist([merged], schema=PREDICTIONS)


class DetectBatch:
    """What each actor does: keep one detector, and answer batches of decoded rows with rows of PREDICTIONS."""

    def __init__(self, state: Any, detect: dict[str, Any], threads: int):
        """Build the detector from a reference to the weights' state, on the actor's GPU where it has one."""
        import ray

        torch.set_num_threads(threads)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.detector = Detector(ray.get(state), device, **detect)

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        """Detect in a batch."""
        return detect_rows(self.detector, rows)


def detect_split(
    prepared: Path, manifest: Manifest, split: str, state: dict[str, Any], config: DetectConfig, batch_size: int
) -> pa.Table:
    """Run the detector over a split.

    Args:
        prepared: folder of the manifest; every node of the cluster reads it, or STORAGE_URI where that is set.
        state: of `ssd.checkpoint.load`.
        batch_size: images a step of one actor.

    Returns:
        PREDICTIONS by image_id, in one chunk; `device` in the schema's metadata is cpu or cuda. The same images share
        a batch every time, however many actors there are: the numbers, whose last bits may depend on it, are the same
        in every run on one kind of machine.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    wanted = split_of(manifest, split)
    if wanted.images == 0:
        return PREDICTIONS.empty_table()
    for shard in wanted.shards:
        verify(prepared, shard)
    # Ray prints an error where an actor gets an object by reference and may restart; ours outlives all actors.
    set_defaults({"RAY_BACKEND_LOG_LEVEL": "fatal"})
    names, objects = [shard.path for shard in wanted.shards], object_store()
    paths = [str((prepared / name).resolve()) for name in names]
    filesystem = None
    if objects is not None:
        filesystem, start = objects.filesystem()
        paths = [f"{start}/{object_prefix(manifest.digest)}/{name}" for name in names]
    with ray_cluster() as resources:
        actors = place_actors(resources)
        tables = _run(paths, filesystem, state, config, batch_size, actors, wanted.images)
    table = pa.concat_tables(tables).sort_by("image_id").combine_chunks()
    if len(table) != wanted.images:
        raise ClusterError(f"{split}: {len(table)} of {wanted.images} images came back; run the stage again")
    return table.replace_schema_metadata({"device": "cuda" if actors["gpu"] else "cpu"})


def _run(
    paths: list[str], filesystem: Any, state: dict, config: DetectConfig, batch_size: int, actors: dict, total: int
) -> list:
    import ray
    import ray.data

    context = quiet_ray_data()
    context.target_max_block_size = 16 << 20  # bytes that are decoded before the detector gets them
    context.execution_options.preserve_order = True  # of the blocks, so that batches are made up alike each time
    blocks = max(
        len(paths), min(-(-total // batch_size), MOST_BLOCKS)
    )  # not by the cluster's CPUs, for the same reason
    rows = ray.data.read_parquet(paths, filesystem=filesystem, override_num_blocks=blocks)
    model = read_config(state)
    tiled = model.tile != "none"
    decoded = rows.map_batches(
        decode_tiles if tiled else decode_rows,
        fn_kwargs={"config": model} if tiled else {"size": model.image_size},
        batch_format="pyarrow",
        batch_size=batch_size,
    )
    found = decoded.map_batches(
        DetectBatch,
        fn_constructor_kwargs={"state": ray.put(state), "detect": asdict(config), "threads": actors["threads"]},
        batch_format="numpy",
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actors["count"]),
        num_cpus=0,  # what actors book, readers lack: on a single CPU, even half a one stops Ray Data for good
        num_gpus=actors["gpu"],
    )
    tables, done, started, shown = [], 0, time.monotonic(), time.monotonic()
    answers = found.iter_batches(batch_size=None, batch_format="pyarrow")
    if tiled:
        answers = merge_tiles(answers, model.tile, config)
    with LiveLines() as live:
        for table in answers:
            tables.append(table.cast(PREDICTIONS))
            done += len(table)
            now = time.monotonic()
            live.update("detect", done, total, f"{done}/{total} images, {done / (now - started):.1f} images/s")
            if (now - shown > 10 and not live.on) or done == total:
                shown = now
                print(f"  {done}/{total} images in {shown - started:.0f} s", flush=True)
    return tables
