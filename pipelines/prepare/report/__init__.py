"""The report on what was prepared, to be looked at before anybody trains on it.

`writer` writes its files: `samples` and `charts` to look at, `statistics`, the near-`duplicates`, and each `finding` of
`suspicions` and `oddities`.
"""
