"""Labelled photographs as people and tools leave them: which files there are, and what their annotations say.

`listing` holds what every layout returns; `voc` and `bananas` read one layout each. The stage `prepare` and the tool
`fetch` use them; a new layout is a file here with `list_photos` and `read_annotation`.
"""
