"""The stage `tune`: a search of parameters before training, on Ray Tune.

`stage` is the stage; `space` plans the trials, `trial` is one of them, `asha` decides who goes on, `driver` runs
them, `ledger` remembers, `mlflow_runs` shows them in MLflow, `table` and `plot` to people. Train reads the result by
`pipelines.tuned`.
"""
