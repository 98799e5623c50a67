"""The tool `predict`: detect in photographs and draw what was found.

`photographs` does it; others may use nothing of this room.
"""
