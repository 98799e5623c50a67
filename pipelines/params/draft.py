"""params.yaml as it is written: some values may be `auto`, until the data are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.params.reading import PARAMS_FILE, Params, Stated, find_auto, load_params, read_raw, validate


@dataclass(frozen=True)
class Draft:
    """A parameter file that was read and checked, with values still to be chosen.

    Attributes:
        path: of the file.
        overrides: dotted names and the values that replace those of the file.
        auto: dotted names of what is `auto`; () where the file says it all.
        base: all parameters, those of the preset and the defaults where `auto` is written. It is what a recipe starts
            from, and nothing is trained with it.
    """

    path: Path
    overrides: dict[str, Any]
    auto: tuple[str, ...]
    base: Params

    @property
    def may_tune(self) -> bool:
        """Whether there is a search, or the data will say."""
        return "tune.trials" in self.auto or self.base.tune.trials > 0

    def complete(self, values: dict[str, Any]) -> Params:
        """All parameters, with `values` by dotted names over those of the file.

        Raises:
            ParamsError: an `auto` is left, or a value cannot be used.
        """
        return load_params(self.path, self.overrides | values)


def load_stated(path: Path | str = PARAMS_FILE, overrides: dict[str, Any] | None = None) -> Stated:
    """The sections of a parameter file that hold without the data, under overrides of them.

    Raises:
        ParamsError: as of `load_draft`.
    """
    return validate(path, find_auto(read_raw(path, overrides))[1])


def load_draft(path: Path | str = PARAMS_FILE, overrides: dict[str, Any] | None = None) -> Draft:
    """Read a parameter file that may have `auto` in it.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, or of the wrong type.
    """
    auto, left = find_auto(read_raw(path, overrides))
    return Draft(Path(path), overrides or {}, auto, validate(path, left))
