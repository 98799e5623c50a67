"""In which ways a label may be wrong."""

from __future__ import annotations

OVERLOOKED, SPURIOUS, SWAPPED, MISPLACED = "overlooked", "spurious", "swapped", "misplaced"
KINDS = {
    OVERLOOKED: "the model finds an object, and nothing is labelled there",
    SPURIOUS: "a box is labelled, and the model finds nothing there",
    SWAPPED: "the model finds another class in the same place",
    MISPLACED: "the model finds the object in another place",
}
