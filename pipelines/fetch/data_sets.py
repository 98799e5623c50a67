"""Fetch a published data set into data/: download, verify, unpack, and hand it to DVC.

Folders and s3:// need none of this, DVC imports them itself: rm -rf data && dvc import-url SOURCE data
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from torchvision.datasets.voc import DATASET_YEAR_DICT

from pipelines.fetch.archives import ArchiveError, obtain, unpack
from pipelines.layouts import bananas, voc
from pipelines.layouts.files import Files

DATA = Path("data")
DOWNLOADS = Path("artifacts/downloads")
BANANAS = "http://d2l-data.s3-accelerate.amazonaws.com/banana-detection.zip"
BANANAS_DIGEST = "sha1=5de26c8fce5ccdea9f91267273464dc968d20d72"  # of d2l.ai 14.6


def resolve(layout: str, sources: list[str]) -> list[str]:
    """Addresses with their digests: d2l's own for bananas, torchvision's for VOC's years."""
    if layout == "bananas":
        sources = sources or [BANANAS]
        return [source if "#" in source else f"{source}#{BANANAS_DIGEST}" for source in sources]
    years = {year: f"{facts['url']}#md5={facts['md5']}" for year, facts in DATASET_YEAR_DICT.items()}
    return [years.get(source, source) for source in sources]


def fetch(layout: str, sources: list[str], data: Path, downloads: Path) -> int:
    """Download and unpack archives, one over the other, and put the result in place of `data`.

    Returns:
        The number of photographs.

    Raises:
        ArchiveError: a source fails, or there are no photographs in it, or `data` would be lost; `data` is as before.
    """
    if data.exists() and not data.with_name(f"{data.name}.dvc").exists():
        raise ArchiveError(f"{data} is not tracked by DVC and would be lost: `dvc add {data}`, or remove it")
    for source in sources:
        if Path(source).is_dir() or source.startswith("s3://"):
            raise ArchiveError(f"{source}: DVC imports it itself: rm -rf {data} && dvc import-url {source} {data}")
    unpacked = downloads / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        for source in sources:
            unpack(obtain(source, downloads), unpacked)
        listing = (bananas if layout == "bananas" else voc).list_photos(Files(unpacked), [])
        if not listing.photos:
            raise ArchiveError(f"{', '.join(sources)}: no photographs in the layout of {layout}")
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise
    if data.is_dir() and not data.is_symlink():
        shutil.rmtree(data)
    else:
        data.unlink(missing_ok=True)
    unpacked.rename(data)
    return len(listing.photos)


def track(data: Path) -> None:
    """Let DVC own `data`, with no source: what it was imported from before would overwrite it.

    Raises:
        ArchiveError: DVC does not take it.
    """
    data.with_name(f"{data.name}.dvc").unlink(missing_ok=True)
    if subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", str(data)]).returncode:
        raise ArchiveError(f"{data} holds the data, but `dvc add {data}` failed, see above; mend that and run it again")
