"""Something suspicious about data, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NAMED = 8  # examples of a finding


@dataclass(frozen=True)
class Finding:
    """Something suspicious.

    Attributes:
        level: "bad" spoils results, "warn" may, "note" is good to know.
        title: one line, with the figure.
        advice: what to do about it.
        examples: names of photographs or classes.
        more: how many further examples there are.
    """

    level: Literal["bad", "warn", "note"]
    title: str
    advice: str
    examples: list[str] = field(default_factory=list)
    more: int = 0


def with_examples(level: Literal["bad", "warn", "note"], title: str, advice: str, examples: list[str]) -> Finding:
    """A finding with the first NAMED of the examples, and how many more there are."""
    distinct = list(dict.fromkeys(examples))
    return Finding(level, title, advice, distinct[:NAMED], max(len(distinct) - NAMED, 0))


def count(number: int, noun: str) -> str:
    """ "1 photograph", "2 photographs", "1,000 boxes"."""
    plural = noun if number == 1 else f"{noun}es" if noun.endswith(("x", "ss")) else f"{noun}s"
    return f"{number:,} {plural}"
