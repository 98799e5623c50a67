"""docs/when-something-goes-wrong.md knows every message of an error that a user can act on."""

import re
from pathlib import Path

from tests.messages import GAP, PAGE, SECTION, messages, rewritten, rooms_of

ROOT = Path(__file__).parents[1]


def test_every_message_is_on_the_page():
    page = PAGE.read_text()
    sections = {room for section in SECTION.finditer(page) for room in rooms_of(section["heading"])}
    assert set(messages()) <= sections, f"{PAGE.name}: name these rooms in a heading"
    assert rewritten(page) == page, "`python -m tests.messages` writes the lists of messages anew"


def test_what_the_tables_explain_is_still_said():
    """A message whose words were changed is changed on the page too."""
    sources = [path.read_text() for folder in ("pipelines", "ssd") for path in (ROOT / folder).rglob("*.py")]
    said = "\n".join([*sources, *(text for texts in messages().values() for text in texts)])
    explained = 0
    for section in SECTION.finditer(PAGE.read_text()):
        for cell in re.findall(r"^\| (.*?) \| .* \| .* \|$", section["text"], re.MULTILINE)[1:]:
            parts = re.findall(r"(?:^|(?<=[ ,]))`(.+?)`(?=$|,| …)", cell)
            assert parts, cell
            assert [part for part in parts if part.strip(GAP) not in said] == []
            explained += 1
    assert explained > 30


def test_users_are_told_the_command_that_they_have():
    """`ssd X`, the same everywhere; `python -m pipelines.X` is what DVC and jobs run."""
    long = re.compile(r"python -m pipelines\.\w+")
    files = {*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "pipelines").rglob("*.j2"), *(ROOT / "docs").glob("*.md")}
    files.remove(ROOT / "docs/gallery.md")  # what DVC prints
    found = {str(path.relative_to(ROOT)): long.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: told for name, told in found.items() if told} == {
        "pipelines/doctor/jobs.py": ["python -m pipelines.doctor"],
        "docs/how-it-works.md": ["python -m pipelines.train"],
    }
