"""Labelled photographs as people and tools leave them: which files there are, and what their annotations say.

`files` are those of a folder, `listing` holds what every layout returns, `advice` what a folder lacks; `bananas`,
`coco` (its `coco_json`, cut by `json_blocks`), `parquet`, `voc` and `yolo` read one layout each, by their `find`,
`list_photos` and `read_annotation`."""
