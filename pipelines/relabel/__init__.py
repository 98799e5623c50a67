"""The tool `relabel`: find labels that look wrong, hand them to a labelling tool, and take the corrections back.

`search` finds `suspects` by their `suspicion` (of `kinds`), `page` shows them. `export` writes a set and what was
`exported`; `take_back` reads what was `corrected`, compares (`corrections`) and patches the `data_files` by
`patch_voc`, `patch_coco` and `patch_lines`."""
