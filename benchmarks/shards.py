"""`prepare` beside copying the same bytes, and the memory that it takes at ten times the data."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from benchmarks.paired import Figure, Missing, Settings, describe, measure, ratio
from pipelines.generate.stage import generate
from pipelines.params import PARAMS_FILE, Stated, load_stated

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 300
TIMES = 10


def default_params() -> Stated:
    """Those of the repository."""
    return load_stated(ROOT / PARAMS_FILE)


def raw_data(folder: Path, images: int = IMAGES) -> Path:
    """Generated bananas, a tenth of them for validation."""
    params = default_params().generate.model_copy(update={"train": images, "val": images // 10})
    with redirect_stderr(io.StringIO()):  # its progress
        generate(folder / "raw", params)
    return folder / "raw"


def multiplied(raw: Path, out: Path) -> Path:
    """The same photographs TIMES over, as links under names of their own."""
    for split in ("bananas_train", "bananas_val"):
        header, *rows = (raw / split / "label.csv").read_text().splitlines()
        (out / split / "images").mkdir(parents=True)
        lines = [header]
        for row in rows:
            name, rest = row.split(",", 1)
            for copy in range(TIMES):
                os.link(raw / split / "images" / name, out / split / "images" / f"{copy}-{name}")
                lines.append(f"{copy}-{name},{rest}")
        (out / split / "label.csv").write_text("\n".join(lines) + "\n")
    return out


def prepare_there(raw: Path, out: Path) -> None:
    """Prepare with the default parameters."""
    from pipelines.prepare.stage import prepare

    with redirect_stderr(io.StringIO()):
        prepare(raw, out, default_params().prepare, 0)


def peak_mib(raw: Path, out: Path) -> float:
    """Largest resident memory of a process of its own that prepares."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_this_process, (raw, out))


def _peak_of_this_process(raw: Path, out: Path) -> float:
    prepare_there(raw, out)
    # ru_maxrss would begin with that of the process it was forked from
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def beside_copying(settings: Settings) -> Figure:
    """Speed of `prepare` as a share of that of copying."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = raw_data(folder)
        mebibytes = sum(file.stat().st_size for file in raw.rglob("*") if file.is_file()) / 2**20

        def copy() -> None:
            shutil.rmtree(folder / "copy", ignore_errors=True)
            shutil.copytree(raw, folder / "copy")

        candidates = {"copying": copy, "prepare": lambda: prepare_there(raw, folder / "out")}
        seconds = measure(candidates, settings.rounds)
        detail = "; ".join(describe(key, times) for key, times in seconds.items())
        return Figure(ratio(seconds, "copying", "prepare"), f"{mebibytes:.0f} MiB; {detail}")


def memory(settings: Settings) -> Figure:
    """Peak memory of `prepare` at TIMES the data as a multiple of that at once the data."""
    if not Path("/proc/self/status").exists():
        raise Missing("/proc, where Linux tells a process's largest memory")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = raw_data(folder)
        once, often = (peak_mib(path, folder / "out") for path in (raw, multiplied(raw, folder / "more")))
        return Figure(often / once, f"{IMAGES} images {once:.0f} MiB; {IMAGES * TIMES} images {often:.0f} MiB")
