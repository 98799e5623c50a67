"""The links from the data to the weights: raw photographs, manifest, shards, the registered file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from pipelines.errors import first_line
from pipelines.settings import home
from pipelines.store.s3 import StorageError, object_store
from pipelines.store.shard_transfer import local_copy, select_shards
from pipelines.store.shards import MANIFEST, Manifest, ShardError, read_manifest, verify
from pipelines.tracking import formats
from pipelines.tracking.registry import RegistryError, weights_file
from pipelines.verify.lineage import DATA, LOCKED_DATA, REPRODUCE
from pipelines.verify.links import BrokenLink, Unchecked, expect
from pipelines.verify.origin import DISTRUST, Origin
from pipelines.verify.repository import MODEL_JSON, entries, md5_of

PREPARE_ANEW = "`dvc checkout artifacts/prepared`, or `dvc repro -f prepare`"
MODEL = "artifacts/train/model.pt"


@dataclass
class Prepared:
    """The prepared data that a version learnt from, wherever they still are.

    Attributes:
        usual: the folder where `prepare` writes.
    """

    origin: Origin
    usual: Path

    @cached_property
    def folder(self) -> Path:
        """A folder with the manifest of the version's digest: the usual one, else a copy from DVC's cache or S3.

        Raises:
            BrokenLink: the usual folder should hold it, and its manifest was changed.
        """
        digest = self.origin.tag(DATA)
        try:
            found = read_manifest(self.usual).digest if (self.usual / MANIFEST).is_file() else None
        except ShardError as error:
            raise BrokenLink(f"the manifest {digest[:12]} in {self.usual}", first_line(error), PREPARE_ANEW) from None
        if found == digest:
            return self.usual
        reasons = [f"{self.usual} holds {f'other data ({found[:12]})' if found else 'no prepared data'}"]
        for fetch in (self._from_dvc, self._from_s3):
            try:
                folder = fetch(digest)
            except Unchecked as error:
                reasons.append(error.why)
                continue
            if read_manifest(folder).digest == digest:
                return folder
            raise BrokenLink(f"data {digest[:12]} (the version's tag)", f"others at {folder}", DISTRUST)
        raise Unchecked("; ".join(reasons), "`dvc fetch`, or set STORAGE_URI to where the training ran")

    def _from_dvc(self, _: str) -> Path:
        lock = self.origin.lock
        if not lock.commit:
            raise Unchecked("dvc.lock is not committed")
        from dvc.api import DVCFileSystem

        target = self.origin.scratch / "prepared"
        try:
            files = DVCFileSystem(url=str(self.origin.repository.folder), rev=lock.commit)
            files.get(LOCKED_DATA, str(target), recursive=True)
        except Exception as error:  # of DVC, git, a remote
            raise Unchecked(f"DVC's cache does not have those of {lock.commit[:12]} ({first_line(error)})") from None
        return target

    def _from_s3(self, digest: str) -> Path:
        if object_store() is None:
            raise Unchecked("STORAGE_URI is not set")
        try:
            return local_copy(self.usual, digest, home())
        except (StorageError, ShardError) as error:
            raise Unchecked(first_line(error)) from None

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest in the folder."""
        return read_manifest(self.folder)


def check_raw_data(origin: Origin) -> str:
    """The photographs are those that the shards were made of."""
    repository, lock = origin.repository, origin.lock
    locked = entries(lock.stages["prepare"]).get("data")
    imported = _md5_of_import(repository.read(lock.commit or None, "data.dvc"))
    expect("data", imported, locked, ("data.dvc", lock.place), REPRODUCE)
    noted = origin.run.data.tags.get("dvc.data", locked)
    expect("data", locked, noted, (lock.place, "the run's tag dvc.data"), DISTRUST)
    if not (repository.folder / "data").is_dir():
        raise Unchecked("there is no folder data here", "`dvc checkout data.dvc` or `dvc update data.dvc`")
    found = md5_of(repository.folder / "data")
    if found != locked and _md5_of_import(repository.read(None, "data.dvc")) != locked:
        raise Unchecked("data holds other photographs now (data.dvc has changed since)", f"look at {lock.place}")
    expect("data", locked, found, (lock.place, "the folder's bytes"), "`dvc checkout data.dvc` brings them back")
    return f"{locked[:12]}: the photographs in data are those that the shards were made of"


def _md5_of_import(content: bytes | None) -> str | None:
    try:
        return yaml.safe_load(content or b"")["outs"][0]["md5"]
    except (yaml.YAMLError, TypeError, KeyError, IndexError):
        return None


def check_manifest(origin: Origin, prepared: Prepared) -> str:
    """The manifest is the version's, and its own digest is right."""
    manifest = prepared.manifest
    images = ", ".join(f"{name} {split.images}" for name, split in manifest.splits.items())
    return f"{manifest.digest[:12]} at {prepared.folder}; images: {images}"


def check_shards(origin: Origin, prepared: Prepared) -> str:
    """Every shard has the digest of the manifest, and the folder the one of dvc.lock."""
    shards = select_shards(prepared.manifest)
    for shard in shards:
        try:
            verify(prepared.folder, shard)
        except ShardError as error:
            raise BrokenLink(
                f"shard {shard.path} {shard.sha256[:12]} (manifest)", first_line(error), PREPARE_ANEW
            ) from None
    said = f"{len(shards)} shards, {sum(shard.bytes for shard in shards) / 2**20:.1f} MiB, read and compared"
    try:
        locked = entries(origin.lock.stages["train"]).get(LOCKED_DATA)
    except (Unchecked, BrokenLink, KeyError):  # the lock's own link says so
        return said
    found = md5_of(prepared.folder)
    expect(LOCKED_DATA, locked, found, (origin.lock.place, "the folder's bytes"), PREPARE_ANEW)
    return f"{said}; the folder is the one of {origin.lock.place}"


def _check_formats(origin: Origin) -> str:
    """The files in other formats have the digests of the version's tags; what to say of them."""
    names = formats.kept(origin.version)
    for name in names:
        try:
            with formats.fetched(origin.client, formats.address(origin.version, name)):
                pass
        except RegistryError as error:
            expected = f"{name} {origin.tag(formats.tag(name))[:12]} (the version's tag)"
            raise BrokenLink(expected, str(error), "bring back MLflow's files from a backup") from None
    return f" (and as {', '.join(names)})" if names else ""


def check_weights(origin: Origin) -> str:
    """The registered file has the digest of the registry, and the one of dvc.lock."""
    try:
        with weights_file(origin.client, origin.version) as file:
            md5, size = hashlib.md5(file.read_bytes()).hexdigest(), file.stat().st_size
    except RegistryError as error:
        raise BrokenLink(
            f"weights {origin.sha256[:12]} (the version's tag)",
            str(error).partition("damaged: ")[2].partition("; ")[0],
            "bring back MLflow's files from a backup, or register anew by `dvc repro -f train`",
        ) from None
    said = f"{origin.sha256[:12]}, {size / 2**20:.1f} MiB{_check_formats(origin)}"
    try:
        locked = entries(origin.lock.stages["train"]).get(MODEL)
    except (Unchecked, BrokenLink, KeyError):
        return said
    expect("the file's md5", locked, md5, (origin.lock.place, "the registered file"), REPRODUCE)
    in_folder = md5_of(origin.repository.folder / MODEL)
    if in_folder and origin.sha256.encode() in (origin.repository.read(None, MODEL_JSON) or b""):
        expect(MODEL, md5, in_folder, ("registered", "the folder"), f"`dvc checkout {MODEL}`")
        return f"{said}: the registered file, {origin.lock.place} and {MODEL} agree"
    return f"{said}: the registered file and {origin.lock.place} agree"
