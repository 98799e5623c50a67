"""The stage `evaluate`: measure the registered model on the test split, and pass or fail it as champion.

`stage` is the stage; `inference` runs the detector on Ray Data, `metrics`, `coco_metrics`, `intervals`, `slices`,
`looks`, `reliability` measure, `protocol` says how, `report` and `charts` make the page, `description` that of MLflow.
`challenge` puts version and champion side by side, `versions` detects for it, and `comparison` is a page of two."""
