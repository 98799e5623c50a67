"""Archives from the network: downloaded once, verified, and unpacked without leaving their folder."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from pipelines.errors import UserError
from pipelines.store.download import DownloadError, download

# What reading an archive raises: the last two for a compression that is not known here, and names that are no text.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
_TAR_FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on


class ArchiveError(UserError):
    """An archive cannot be had, is not what it should be, or would write outside its folder."""


def obtain(source: str, folder: Path) -> Path:
    """Find or download an archive.

    Args:
        source: a path or an http(s) address; `#sha256=…` (any name that hashlib knows) says what it must be.
        folder: where downloads go and stay. A verified one is not repeated; an interrupted one is continued where
            its digest is known.

    Raises:
        ArchiveError: it cannot be read, or its digest is another.
    """
    address, wanted = urldefrag(source)
    if urlsplit(address).scheme not in ("http", "https"):
        if not Path(address).is_file():
            raise ArchiveError(f"{address}: no such file")
        _verify(Path(address), wanted, address)
        return Path(address)
    path = folder / (PurePosixPath(unquote(urlsplit(address).path)).name or "download")
    if not (wanted and path.is_file() and _digest(path, wanted) == wanted.partition("=")[2].lower()):
        partial = path.with_name(f"{path.name}.partial")
        try:
            download(address, partial, go_on=bool(wanted))
        except DownloadError as error:
            hint = "; the same command goes on" if wanted and partial.stat().st_size else ""
            raise ArchiveError(f"{error}{hint}") from None
        try:
            _verify(partial, wanted, address)
        except ArchiveError:
            partial.unlink()  # or the next try would go on with it
            raise
        partial.replace(path)
    return path


def _digest(path: Path, wanted: str) -> str:
    algorithm = wanted.partition("=")[0]
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise ArchiveError(f"#{wanted}: no digest; write #sha256=…")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _verify(path: Path, wanted: str, address: str) -> None:
    if wanted and (found := _digest(path, wanted)) != wanted.partition("=")[2].lower():
        algorithm, _, digest = wanted.partition("=")
        raise ArchiveError(f"{address}: its {algorithm} is {found}, {digest} was expected")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into `folder`, beside what is there.

    Raises:
        ArchiveError: it is no archive, or a damaged or encrypted one, it names files outside the folder, or it needs
            more room than there is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                _check_zip(file, archive, folder)
                file.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                file.extractall(folder, _plain_members(file, archive), **_TAR_FILTER)
        else:
            raise ArchiveError(f"{archive}: neither a zip nor a tar archive")
    except (*DAMAGED, OSError) as error:
        raise ArchiveError(f"{archive}: cannot be unpacked: {error}") from None


def _check_name(name: str, archive: Path) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise ArchiveError(f"{archive}: refused: {name!r} lies outside the archive")


def _plain_members(file: tarfile.TarFile, archive: Path) -> list[tarfile.TarInfo]:
    """Files and folders inside the archive, owned by whoever unpacks them; Python 3.11.2 has no filter for that."""
    members = file.getmembers()
    for member in members:
        _check_name(member.name, archive)
        if not (member.isfile() or member.isdir()):
            raise ArchiveError(f"{archive}: refused: {member.name!r} is no file and may lead outside the archive")
        member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
        member.mode = 0o755 if member.isdir() else 0o644
    return members


def _check_zip(file: zipfile.ZipFile, archive: Path, folder: Path) -> None:
    """Refuse what `extractall` would quietly rename, ask a password for, or fill the disk with."""
    for item in file.infolist():
        _check_name(item.filename, archive)
        if item.flag_bits & 1:
            raise ArchiveError(f"{archive}: {item.filename!r} is encrypted; unpack it yourself, and `dvc add data`")
    needed, free = sum(item.file_size for item in file.infolist()), shutil.disk_usage(folder).free
    if needed > free:
        raise ArchiveError(f"{archive}: needs {needed >> 20} MiB, {free >> 20} MiB are free")
