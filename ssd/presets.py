"""Presets: a textbook's detector as data. A parameter file names one and overrides what it wants."""

from __future__ import annotations

PRESETS: dict[str, dict] = {
    # d2l.ai 14.7 (13.7 in the first edition), TinySSD: 5444 anchors
    "tiny": {
        "model": {
            "backbone": "tiny",
            "image_size": [256, 256],
            "anchors": {
                "sizes": [[0.2, 0.272], [0.37, 0.447], [0.54, 0.619], [0.71, 0.79], [0.88, 0.961]],
                "ratios": [[1.0, 2.0, 0.5]],
                "square": True,
            },
        },
        "loss": {},
        "detect": {},
    },
}
