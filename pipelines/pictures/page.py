"""Reports: HTML pages that need nothing beside themselves."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ssd.images import preview

THUMBNAIL = 420  # pixels, the longer side


def render_page(template: Path, **values: Any) -> str:
    """The page of a template, which may extend `page.html.j2` and import from the templates beside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    return environment.get_template(template.name).render(**values)


def thumbnail(encoded: bytes, size: tuple[int, int] | None = None, longest: int = THUMBNAIL) -> str:
    """A data: URL of the image of `size` (height, width), shrunk to `longest` pixels where it is larger.

    Raises:
        ValueError: the image cannot be decoded.
    """
    image = Image.fromarray(preview(encoded, size, longest).pixels)
    image.thumbnail((longest, longest))
    image.save(buffer := io.BytesIO(), "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
