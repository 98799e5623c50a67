"""What is said of a link of the chain: it holds, it does not hold, or it cannot be checked here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

MARKS = {"holds": "✓", "broken": "✗", "unchecked": "–"}


@dataclass(frozen=True)
class Link:
    """One link.

    Attributes:
        says: what was seen where it holds; why where it cannot be checked.
        expected, found: of a link that does not hold.
        fix: what to do, of the others.
    """

    name: str
    state: Literal["holds", "broken", "unchecked"]
    says: str = ""
    expected: str = ""
    found: str = ""
    fix: str = ""

    def __str__(self) -> str:
        if self.state == "broken":
            said = f"expected {self.expected}, found {self.found}; {self.fix}"
        elif self.state == "unchecked":
            said = f"cannot be checked here: {self.says}" + (f"; {self.fix}" if self.fix else "")
        else:
            said = self.says
        return f"{MARKS[self.state]} {self.name:<12} {said}"


class BrokenLink(Exception):  # noqa: N818  a finding
    """A link does not hold."""

    def __init__(self, expected: str, found: str, fix: str):
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found, self.fix = expected, found, fix


class Unchecked(Exception):  # noqa: N818  likewise
    """A link cannot be checked here, for a reason that does not speak against it."""

    def __init__(self, why: str, fix: str = ""):
        super().__init__(why)
        self.why, self.fix = why, fix


def expect(what: str, expected: str | None, found: str | None, where: tuple[str, str], fix: str) -> None:
    """Compare two values of one thing.

    Args:
        where: the places of the expected and of the found value.

    Raises:
        BrokenLink: they differ.
    """
    if expected != found:
        one, other = (f"{what} {_short(value)} ({place})" for value, place in zip((expected, found), where))
        raise BrokenLink(one, other, fix)


def _short(value: str | None) -> str:
    text = "nothing" if value is None else str(value)
    return f"{text[:16]}…" if len(text) in (40, 64) and " " not in text else text[:200]


def walk(checks: Iterable[tuple[str, Callable[[], str]]]) -> Iterator[Link]:
    """Check link by link, also those behind one that does not hold; what is found again is said once."""
    seen: dict[str, str] = {}
    for name, check in checks:
        try:
            yield Link(name, "holds", check())
        except BrokenLink as error:
            if (first := seen.setdefault(str(error), name)) != name:
                yield Link(name, "unchecked", f"{first} does not hold")
                continue
            yield Link(name, "broken", expected=error.expected, found=error.found, fix=error.fix)
        except Unchecked as error:
            yield Link(name, "unchecked", error.why, fix=error.fix)
