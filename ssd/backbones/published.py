"""Published weights that are no torchvision file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class PackageFile:
    """A file of weights inside a Python package.

    Attributes:
        requirement: what to install, name and version.
        module: top-level module of the package; it is not imported.
        name: of the file, relative to the module's folder.
    """

    requirement: str
    module: str
    name: str

    def path(self) -> Path:
        """Where the file is.

        Raises:
            ValueError: the package is not installed, or has no such file.
        """
        spec = find_spec(self.module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder, self.name)).is_file():
                return path
        raise ValueError(f"the weights are a file of the package {self.requirement}, which is not installed")
