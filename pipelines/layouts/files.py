"""The files of a data folder, walked once: by suffix, by the end of their path, by the split that a folder names."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipelines.layouts.listing import Rejected, is_image

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
DEEPEST = 20  # folders inside folders


def split_named(text: str) -> str:
    """The split that a name stands for, "train", "val" or "test", with a year or without (train2017); "" if none."""
    match = re.fullmatch(r"([a-z]+)[-_]?\d*", text.lower())
    return SPLITS.get(match[1], "") if match else ""


def split_of(path: str) -> str:
    """The split that a folder of a path names, the innermost first; "" if none does."""
    return next(filter(None, map(split_named, reversed(PurePosixPath(path).parts[:-1]))), "")


class Files:
    """Regular files below a folder, as sorted relative paths.

    Hidden ones are left out (macOS leaves `._` files and `__MACOSX`), and so are pipes, devices and links to nothing.
    Links to folders are followed, but not in circles. `rejected` holds the folders that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rejected: list[Rejected] = []
        self.paths = sorted(self._walk("", set(), []))

    def _walk(self, folder: str, linked: set, above: list, by_link: bool = False) -> Iterator[str]:
        try:
            state = os.stat(self.root / folder)
            with os.scandir(self.root / folder) as entries:
                entries = sorted((e for e in entries if not e.name.startswith((".", "__"))), key=lambda e: e.name)
        except OSError as error:
            self.rejected.append(Rejected(folder or str(self.root), f"cannot be read: {error.strerror}"))
            return
        here = (state.st_dev, state.st_ino)
        if here in above or len(above) > DEEPEST or (by_link and here in linked):
            return
        if by_link:
            linked.add(here)
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_file():
                yield path
            elif entry.is_dir():
                yield from self._walk(path, linked, [*above, here], by_link or entry.is_symlink())

    @cached_property
    def by_suffix(self) -> dict[str, list[str]]:
        """Paths by their suffix in lower case, ".jpg"."""
        found = defaultdict(list)
        for path in self.paths:
            found[PurePosixPath(path).suffix.lower()].append(path)
        return found

    def having(self, *suffixes: str) -> list[str]:
        """Paths with one of these suffixes."""
        return [path for suffix in suffixes for path in self.by_suffix.get(suffix, ())]

    @cached_property
    def folders(self) -> list[str]:
        """Folders with files in them or below, without the data folder itself; sorted."""
        return sorted({str(folder) for path in self.paths for folder in PurePosixPath(path).parents} - {"."})

    def below(self, folder: str) -> list[str]:
        """Paths in a folder and its folders."""
        start = bisect_left(self.paths, f"{folder}/")
        return self.paths[start : bisect_left(self.paths, f"{folder}0")]  # "0" follows "/"

    @cached_property
    def images(self) -> dict[str, None]:
        """Paths of images, in order."""
        return dict.fromkeys(filter(is_image, self.paths))

    @cached_property
    def image_folders(self) -> set[str]:
        """Folders with images in them or below; "." is the data folder."""
        return {str(folder) for path in self.images for folder in PurePosixPath(path).parents}

    @cached_property
    def _images_by_name(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in self.images:
            found[path.rpartition("/")[2]].append(path)
        return found

    def find_image(self, name: str, near: Sequence[str] = (), split: str = "") -> list[str]:
        """Images that an annotation file means by `name`: one, or none, or several that are as good.

        That is a path from one of the folders `near`, or the end of a path. Folders of another machine (an absolute
        path, `..`, Darknet's data/) are dropped one by one until there is one, but none that names a split. Nothing
        outside the data is found.

        Args:
            name: as the annotation file has it, with either slash.
            near: folders to look in first, "" is the data folder.
            split: images in folders of another split are passed over.
        """
        for folder in near:
            if (path := f"{folder}/{name}" if folder else name) in self.images:
                return [path]
        parts, foreign = _parts(name)
        alike = self._images_by_name.get(parts[-1], ()) if parts else ()
        alike = [path for path in alike if not split or split_of(path) in ("", split)]
        while parts:
            tail = "/".join(parts)
            if found := [path for path in alike if path == tail or path.endswith(f"/{tail}")]:
                return found
            parts = parts[1:] if _may_drop(parts[0], foreign) else []
        return []

    def find_folder(self, name: str, near: Sequence[str]) -> str | None:
        """The folder with images that is meant by `name`: as `find_image` does; None if there is none."""
        for folder in near:
            path = os.path.normpath(f"{folder}/{name}" if folder else name)
            if path in self.image_folders:
                return path
        parts, foreign = _parts(name)
        while parts:
            if (tail := "/".join(parts)) in self.image_folders:
                return tail
            parts = parts[1:] if _may_drop(parts[0], foreign) else []
        return None


def _may_drop(part: str, foreign: bool) -> bool:
    """Whether a path's first folder may be of another machine; never one that names a split."""
    return (foreign or part == "data") and not split_named(part)


def _parts(name: str) -> tuple[list[str], bool]:
    """Parts of a path, and whether its first ones are folders of another machine."""
    name = name.replace("\\", "/")
    foreign = name.startswith(("/", "../")) or bool(re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", name))
    return [part for part in name.split("/") if part not in ("", ".", "..")], foreign
