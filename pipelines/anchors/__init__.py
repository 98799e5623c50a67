"""The tool `anchors`: how well the anchors cover the training boxes, and which would cover them better.

`coverage` measures and designs (the stage `tune` begins with its proposal), `report` and `chart` show it.
"""
