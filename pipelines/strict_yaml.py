"""YAML without its surprises: plain values alone, and each key once."""

from __future__ import annotations

import math
from typing import Any

import yaml
from yaml.composer import ComposerError

DEEPEST = 20  # levels of values inside values


class _Loader(yaml.SafeLoader):
    """Keys are strings, each once in a mapping: PyYAML takes the last of two without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = []
        for key, _ in node.value:
            if not key.tag.endswith((":str", ":merge")):
                raise ComposerError(None, None, "a key that is no string: put it in quotes", key.start_mark)
            if key.value in seen:
                raise ComposerError(None, None, f"the key {key.value} is there twice", key.start_mark)
            seen.append(key.value)
        return node


def parse_yaml(text: str) -> Any:
    """What YAML stands for: numbers, strings, booleans, None, and lists and mappings of them, as in JSON.

    Raises:
        ValueError: it is not YAML, or holds anything else; the message is one line with the line's number or the key.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"not YAML: {error.problem} (line {mark.line + 1}, column {mark.column + 1})") from None
    except RecursionError:
        raise ValueError("a value contains itself, or is nested too deeply") from None
    except Exception as error:  # PyYAML lets through what Python raises at 2024-99-99, or at `!!int` without a number
        raise ValueError(f"not YAML: {error}".replace("\n", " ")) from None
    _refuse_unusual(value)
    return value


def _refuse_unusual(value: Any, *keys: str) -> None:
    """Raise ValueError at dates, sets, binary, at what is not finite, past 64 bits, or contains itself."""
    problem = ""
    if len(keys) > DEEPEST:
        keys, problem = keys[:1], "a value contains itself, or is nested too deeply"
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_unusual(inner, *keys, key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_unusual(inner, *keys, str(index))
    elif isinstance(value, float) and not math.isfinite(value):
        problem = f"{value} is not a finite number"
    elif isinstance(value, int) and abs(value) >= 2**63:
        problem = "a whole number below 2^63 is due"
    elif not isinstance(value, str | float | int | None):
        problem = f"{value!r:.80} is a {type(value).__name__}; write a number, a list, or a string in quotes"
    if problem:
        raise ValueError(f"{'.'.join(keys)}: {problem}" if keys else problem)
