"""What a folder of results belongs to: one listing, one model, one set of settings; whatever differs is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import UserError, writing
from pipelines.files import write_whole
from pipelines.score import FORMATS
from pipelines.score.source import LISTING
from pipelines.settings import ROOT
from pipelines.tracking.provenance import digest_of_files

MANIFEST, LISTED, PARTS, LOCK = "manifest.json", "listing.parquet", "parts", ".lock"
ERRORS, DRIFT, PAGE = "errors.csv", "drift.json", "report.html"
OURS = {MANIFEST, LISTED, PARTS, LOCK, ERRORS, DRIFT, PAGE, *FORMATS, *(f".{name}.partial" for name in FORMATS)}
OURS |= {f".{name}.partial" for name in (MANIFEST, LISTED, ERRORS, DRIFT, PAGE)}
STATE = ("file", "row", "bytes", "state")  # columns of a listing by which a photograph is the same
DETECTING = ("detect", "photographs", "results")  # files of this room that decide what a part holds
DECISIVE = ("weights", "listing", "score", "part")
ANEW = "add --replace to begin anew, or name another folder"
Earlier = Literal["keep", "replace", "forget"]


class ManifestError(UserError):
    """The folder belongs to something else; the message says what differs and what to do."""


class Manifest(BaseModel):
    """What results are of, and how they were made.

    Attributes:
        listing: digest of the photographs' names, bytes and states. photographs: how many there are.
        model: models:/NAME/VERSION or a weights file. weights: its SHA-256.
        score: the lowest that counts; None: `thresholds`, the model's own of each class.
        part: photographs in a part.
        code: see `code_digest`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: str
    listing: str
    photographs: int
    model: str
    weights: str
    classes: list[str]
    thresholds: list[float]
    score: float | None
    part: int
    code: str

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.photographs // self.part)


def digest_of(listing: pa.Table) -> str:
    """Digest of the rows of a listing, wherever they lie."""
    total = hashlib.sha256()
    for batch in listing.select(STATE).to_batches(1 << 16):
        total.update(repr(batch.to_pydict()).encode())
    return total.hexdigest()


def code_digest() -> str:
    """Digest of the code that decides what is found in a photograph: `ssd/`, and the files that use it."""
    files = (ROOT / "pipelines/score" / f"{name}.py" for name in DETECTING)
    return digest_of_files([ROOT / "ssd", ROOT / "pipelines/onnx_detector.py", *files])


def part_file(out: Path, part: int) -> Path:
    """The file of a part."""
    return out / PARTS / f"part-{part:05d}.parquet"


def missing_parts(out: Path, manifest: Manifest) -> list[int]:
    """Parts that have not been scored: a file that is there is whole."""
    return [part for part in range(manifest.parts) if not part_file(out, part).is_file()]


def begin(out: Path, manifest: Manifest, listing: pa.Table, earlier: Earlier) -> None:
    """Make a folder that of these results, or go on in it if it is that already.

    Args:
        earlier: what becomes of results that are there: `keep` goes on with its own and refuses others, `replace`
            removes others, `forget` removes all.

    Raises:
        ManifestError: it holds results of something else, or files of somebody else.
    """
    strangers = sorted({path.name for path in out.iterdir()} - OURS) if out.is_dir() else []
    if strangers:
        raise ManifestError(f"{out}: {strangers[0]!r} is in it, which `score` did not write; name a new folder")
    with writing(out):
        if earlier != "forget" and _belongs(out, manifest, listing, earlier == "replace"):
            return
        clear(out)
        (out / PARTS).mkdir(parents=True)
        sink = pa.BufferOutputStream()
        pq.write_table(listing, sink)
        write_whole(out / LISTED, sink.getvalue().to_pybytes())
        write_whole(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def _belongs(out: Path, manifest: Manifest, listing: pa.Table, replace: bool) -> bool:
    """Whether a folder holds results of a manifest, to go on with.

    Raises:
        ManifestError: it holds others, which are not to be replaced.
    """
    try:
        before = read_manifest(out)
        if before is None:
            return False
        other_code = before.code != manifest.code and missing_parts(out, before)  # finished results need no code
        if other_code or any(getattr(before, name) != getattr(manifest, name) for name in DECISIVE):
            raise ManifestError(f"{out}: {_difference(out, before, manifest, listing)}; {ANEW}")
    except ManifestError as error:
        if not replace:
            raise
        print(f"{str(error).partition(';')[0]}: replaced")  # without what else one could do
        return False
    return True


def clear(out: Path) -> None:
    """Remove what a run of `score` leaves, the manifest first: what is left by a kill belongs to nothing."""
    for name in (MANIFEST, *sorted(OURS - {MANIFEST, LOCK})):
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        ManifestError: it is none of this version.
    """
    try:
        return Manifest.model_validate_json((out / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise ManifestError(f"{out / MANIFEST}: not written by this version of `score`; {ANEW}") from None


def _difference(out: Path, before: Manifest, now: Manifest, listing: pa.Table) -> str:
    """What is another now, in words."""
    if before.weights != now.weights:
        return (
            f"begun with {before.model} ({before.weights[:12]}), and now it is {now.model} ({now.weights[:12]}); "
            f"go on with --model {before.model}"
        )
    if before.listing != now.listing:
        return f"begun with {before.source}, and {now.source} is another now: {_changed(out, listing)}"
    for name in ("score", "part"):
        if getattr(before, name) != getattr(now, name):
            return f"begun with --{name} {_word(getattr(before, name))}, and now it is {_word(getattr(now, name))}"
    return (
        f"begun with other code ({before.code[:12]}, now {now.code[:12]}), which may find other boxes in the rest; "
        "go on with the commit of then"
    )


def _word(value: object) -> str:
    return "of each class" if value is None else str(value)


def _changed(out: Path, listing: pa.Table) -> str:
    """The first photograph that is new, missing or another, and how many there are of them."""
    try:
        old = pq.read_table(out / LISTED, schema=LISTING)
    except (OSError, pa.ArrowException):
        return "its list cannot be read"
    before, after = ({row["file"]: row for row in table.select(STATE).to_pylist()} for table in (old, listing))
    new, gone = after.keys() - before.keys(), before.keys() - after.keys()
    other = {file for file in before.keys() & after.keys() if before[file] != after[file]}
    counts = ((new, "new"), (gone, "missing"), (other, "changed"))
    said = [f"{len(files)} {word} ({min(files)})" for files, word in counts if files]
    return ", ".join(said) or "its order is another"
