"""Change objects of a VOC annotation and leave every other byte as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from pipelines.label_files import voc_sides
from pipelines.layouts.voc import SIDES
from pipelines.relabel.corrections import Edit

START_TAG = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")
ENCODING = re.compile(rb"""^<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)["']""")


@dataclass
class _Object:
    """Where an object and the texts of its elements lie in the file: [start, end) in bytes."""

    start: int
    end: int = 0
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)


class _Places:
    """Where all objects lie, and where the root ends."""

    def __init__(self, content: bytes):
        self.content = content
        self.objects: list[_Object] = []
        self.first_child = self.root_end = 0
        self._stack: list[tuple[str, int]] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._finish
        self._parser.Parse(content, True)

    def _begin(self, tag: str, _: dict) -> None:
        start = self._parser.CurrentByteIndex
        if len(self._stack) == 1:
            self.first_child = self.first_child or start
            if tag == "object":
                self.objects.append(_Object(start))
        self._stack.append((tag, START_TAG.match(self.content, start).end()))

    def _finish(self, _: str) -> None:
        path = "/".join(tag for tag, _ in self._stack[1:])
        _, text = self._stack.pop()
        end = self._parser.CurrentByteIndex
        if not self._stack:
            self.root_end = end
        elif path == "object":
            self.objects[-1].end = max(end, text) if end < text else self.content.index(b">", end) + 1
        elif path.startswith("object/") and end >= text:
            self.objects[-1].texts.setdefault(path.removeprefix("object/"), (text, end))


def patch(content: bytes, edits: Sequence[Edit], whole: bool, first: int = 1) -> bytes:
    """The XML after the edits; its other bytes, its indentation too, are as they were.

    Args:
        content: of a file that `pipelines.layouts.voc` reads.
        edits: by the objects' numbers in the file.
        whole: write whole pixels. first: the number of the first pixel; with 0, sides have a point as CVAT's have.

    Raises:
        ValueError: it is in an encoding that does not extend ASCII, or cannot hold a name.
    """
    declared = ENCODING.match(content.removeprefix(b"\xef\xbb\xbf"))
    encoding = declared[1].decode() if declared else "utf-8"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:100]:
        raise ValueError("UTF-16; save it as UTF-8")
    places = _Places(content)
    changes: list[tuple[int, int, bytes]] = []
    for edit in edits:
        if edit.index is None:
            at = places.objects[-1].end if places.objects else len(content[: places.root_end].rstrip())
            changes.append((at, at, _new_object(places, edit, whole, first).encode(encoding)))
        elif edit.removed:
            one = places.objects[edit.index]
            changes.append((len(content[: one.start].rstrip()), one.end, b""))
        else:
            changes += _replacements(places.objects[edit.index], edit, whole, first, encoding)
    for start, end, new in sorted(changes, key=lambda change: change[:2], reverse=True):
        content = content[:start] + new + content[end:]
    return content


def _replacements(one: _Object, edit: Edit, whole: bool, first: int, encoding: str) -> list[tuple[int, int, bytes]]:
    texts: dict[str, str] = {}
    if edit.name is not None:
        texts["name"] = escape(edit.name)
    if edit.box is not None:
        texts |= {f"bndbox/{side}": str(value) for side, value in zip(SIDES, voc_sides(edit.box, whole, first))}
    changes = []
    if edit.difficult is not None:
        texts["difficult"] = str(int(edit.difficult))
        if "difficult" not in one.texts:
            at = one.texts["name"][1] + len("</name>")
            changes.append((at, at, f"<difficult>{texts.pop('difficult')}</difficult>".encode()))
    return changes + [(*one.texts[tag], text.encode(encoding)) for tag, text in texts.items()]


def _new_object(places: _Places, edit: Edit, whole: bool, first: int) -> str:
    """The element of a new object, indented like those that are there."""
    content = places.content
    start = places.objects[0].start if places.objects else places.first_child or places.root_end
    lead = content[len(content[:start].rstrip()) : start].decode()
    _, newline, unit = lead.rpartition("\n")
    inner, innermost = (lead + unit * depth if newline else "" for depth in (1, 2))
    parts = {"name": escape(edit.name), "pose": "Unspecified", "truncated": 0, "difficult": int(bool(edit.difficult))}
    children = "".join(f"{inner}<{tag}>{value}</{tag}>" for tag, value in parts.items())
    sides = zip(SIDES, voc_sides(edit.box, whole, first))
    box = "".join(f"{innermost}<{side}>{value}</{side}>" for side, value in sides)
    return f"{lead}<object>{children}{inner}<bndbox>{box}{inner}</bndbox>{lead}</object>"
