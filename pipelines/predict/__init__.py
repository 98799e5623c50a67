"""The tool `predict`: detect in photographs and videos and draw what was found.

`photographs` does it with photographs, `videos` with the `sources` that move, `objects` is what both write; others may
use nothing of this room.
"""
