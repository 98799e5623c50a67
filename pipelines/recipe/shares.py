"""How many photographs `prepare` sets aside where params.yaml leaves it open."""

from __future__ import annotations

USUAL = {"test": 0.2, "val": 0.1}
FEWEST = 12  # photographs below which a measurement is chance
LARGEST = 0.2  # of a tiny data set: what measures does not teach
MOST = {"test": 20_000, "val": 4000}  # more only take time; a validation is made after every epoch


def share(split: str, images: int) -> float:
    """The share of `images` photographs to draw for the test, or of those that remain for the validation.

    The usual one; more of a small data set and less of a large one.
    """
    enough = min(FEWEST / max(images, 1), LARGEST)
    return min(max(USUAL[split], enough), max(MOST[split] / max(images, 1), enough))
