"""The pictures of docs/gallery.md: all there, all shown, and small."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_every_picture_is_shown_and_all_are_small():
    shown = re.findall(r"^!\[.{20,}\]\((gallery/.+)\)$", (DOCS / "gallery.md").read_text(), re.MULTILINE)
    files = list((DOCS / "gallery").iterdir())
    assert sorted(shown) == sorted(str(file.relative_to(DOCS)) for file in files)
    assert sum(file.stat().st_size for file in files) < 1_500_000
