"""The tool `seeds`: how much a number moves from one seed of the training to another.

`repeat` trains and measures one seed, `spread` all of them; `summary` makes mean and standard deviation, and writes.
"""
