"""What a YOLO set says of itself: class names and image sets, by Ultralytics' data.yaml or Darknet's files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from yaml.composer import ComposerError

from pipelines.layouts import label_studio
from pipelines.layouts.files import Files, split_named
from pipelines.layouts.listing import DataError

MAX_BYTES = 64 << 20  # of a list of images
MAX_YAML_BYTES = 1 << 20


@dataclass(frozen=True)
class Index:
    """Class names, and for each split the folders, lists or images that it is made of.

    `file` says all this. A name is "" where no class has this number. `numbers` a line has in a pose set, 0 in others;
    `task` is Ultralytics' word, "" if not given.
    """

    file: str
    names: list[str]
    entries: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    numbers: int = 0
    task: str = ""


def find(files: Files) -> str:
    """The file that says what a YOLO set is: data.yaml, else names of classes; "" if there is none.

    Raises:
        DataError: there are several, and they differ.
    """
    yamls = [f for f in files.having(".yaml", ".yml") if _is_data(f) or _looks_like_index(files.root / f)]
    yamls = [file for file in yamls if _is_data(file)] or yamls
    if len(yamls) > 1:
        raise DataError(f"{files.root}: several YOLO sets: {', '.join(yamls[:5])}; import one of their folders")
    texts = [file for file in files.having(".txt") if PurePosixPath(file).name == "classes.txt"]
    names = files.having(".names", ".labels") or texts  # Darknet's, Roboflow's for Darknet, else other tools'
    if not yamls and len({read_text(files.root / file) for file in names[:100]}) > 1:
        raise DataError(
            f"{files.root}: class names that differ: {', '.join(names[:5])}; make them alike, or remove some"
        )
    return next(iter(yamls or names), "")


def _is_data(file: str) -> bool:
    return PurePosixPath(file).stem in ("data", "dataset")


def _looks_like_index(path: Path) -> bool:
    try:
        content = parse(path)
    except DataError:
        return False
    splits = {split_named(str(key)) for key in content} if isinstance(content, dict) else set()
    return bool(splits & {"train", "val"}) and "names" in content


def read(files: Files, file: str) -> Index:
    """Read the file that `find` found.

    Raises:
        DataError: it cannot be read or says what it must not; with the key and the fix.
    """
    if PurePosixPath(file).suffix in (".yaml", ".yml"):
        return _read_yaml(files, file)
    names = [line.strip() for line in read_text(files.root / file).splitlines()]
    while names and not names[-1]:
        names.pop()
    folder = PurePosixPath(file).parent
    notes = _text(folder / "notes.json")
    noted = label_studio.names(files.root / notes, read_text(files.root / notes)) if notes in files.paths else []
    _check_names(files.root / file, list(filter(None, noted)) or names)
    return Index(file, noted or names, _read_darknet(files, folder), [_text(folder), ""])


def _read_darknet(files: Files, folder: PurePosixPath) -> dict[str, list[str]]:
    """Lists of images by split: of obj.data beside the names, or those of the usual names."""
    lists = {}
    for path in (path for path in files.having(".data") if PurePosixPath(path).parent == folder):
        for line in read_text(files.root / path).splitlines():
            key, equals, value = (part.strip() for part in line.partition("="))
            if equals and value and (split := split_named(key)):
                lists[split] = [value]
    beside = [PurePosixPath(path) for path in files.having(".txt") if PurePosixPath(path).parent == folder]
    return lists or {split: [_text(path)] for path in beside if (split := split_named(path.stem))}


def _read_yaml(files: Files, file: str) -> Index:
    path = files.root / file
    content = parse(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: keys and values are due, as in `names: [cat, dog]`")
    if "names" not in content:
        raise DataError(f"{path}: names: missing; write the classes in the order of their numbers: `names: [cat, dog]`")
    names = _as_names(path, content["names"])
    count = content.get("nc", len(names))
    if count != len(names):
        raise DataError(f"{path}: nc is {count!r:.80}, names has {len(names)}; mend one of them")
    entries = {}
    for key, value in content.items():
        if split := split_named(str(key)):
            entries[split] = [*entries.get(split, ()), *_as_entries(path, key, value)]
    base = content.get("path") or ""
    if not isinstance(base, str):
        raise DataError(f"{path}: path: {base!r:.80}, a folder is due")
    folder = _text(PurePosixPath(file).parent)
    folders = [f"{folder}/{base}".lstrip("/"), folder, ""]
    return Index(
        file, names, entries, folders, _numbers(path, content.get("kpt_shape")), str(content.get("task") or "")
    )


def _numbers(path: Path, shape: Any) -> int:
    """Numbers of a line of a pose set: class, box, and two or three for each point."""
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise DataError(f"{path}: kpt_shape: {shape!r:.80}, two numbers are due, as in [17, 3]")
    return 5 + shape[0] * shape[1]


def _as_names(path: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        if set(map(str, names)) != {str(number) for number in range(len(names))}:
            raise DataError(f"{path}: names: its numbers are {sorted(map(str, names))[:10]}; 0, 1, 2 … are due")
        names = [name for _, name in sorted((int(number), name) for number, name in names.items())]
    if not isinstance(names, list):
        raise DataError(f"{path}: names: {names!r:.80}; a list or a mapping of numbers is due")
    for name in names:
        if type(name) not in (str, int, float):
            raise DataError(f"{path}: names: {name!r:.80} is no name; put it in quotes")
    names = [str(name).strip() for name in names]
    _check_names(path, names)
    return names


def _check_names(path: Path, names: list[str]) -> None:
    if not names or not all(names):
        raise DataError(f"{path}: a class without a name" if names else f"{path}: there is no class in it")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: the class {twice!r} is there twice")


def _as_entries(path: Path, key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(entry, str) for entry in values):
        raise DataError(f"{path}: {key}: {value!r:.80}; a folder, a list of them, or a .txt is due")
    return values


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them unfold to any size."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "an alias (*); write the value itself", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def parse(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        DataError: it cannot be read, is not YAML, or has a key twice.
    """
    text = read_text(path, MAX_YAML_BYTES)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        for mapping in _mappings(node):
            keys = [key.value for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)]
            if twice := {key for key in keys if keys.count(key) > 1}:
                raise DataError(f"{path}: the key {min(twice)} is there twice")
        return loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DataError(f"{path}: not YAML: {error.problem} (line {mark.line + 1})") from None
    except RecursionError:
        raise DataError(f"{path}: not YAML that can be read: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not YAML: {error}".replace("\n", " ")) from None


def _mappings(node: Any) -> list[yaml.MappingNode]:
    """The outermost mapping and those directly in it."""
    if not isinstance(node, yaml.MappingNode):
        return []
    return [node, *(inner for _, inner in node.value if isinstance(inner, yaml.MappingNode))]


def read_text(path: Path, largest: int = MAX_BYTES) -> str:
    """The text of a small file.

    Raises:
        DataError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        if path.stat().st_size > largest:
            raise DataError(f"{path}: more than {largest >> 20} MiB")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; save it in that encoding") from None


def _text(path: PurePosixPath) -> str:
    return "" if str(path) == "." else str(path)
