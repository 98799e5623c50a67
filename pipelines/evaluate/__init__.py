"""The stage `evaluate`: measure the registered model on the test split, and pass or fail it as champion.

`stage` is the stage; `inference` runs the detector on Ray Data, `metrics`, `coco_metrics` and `intervals` measure,
`report` and `charts` make the page. `challenge` puts the version beside the champion, and `versions` keeps predictions.
"""
