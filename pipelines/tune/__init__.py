"""The stage `tune`: a search of parameters before training, on Ray Tune.

`stage` is the stage; `space` and `tpe` propose trials, `search` joins them, `trial` is one, `asha` stops them, `driver`
runs them, `ledger` remembers, `verdict` says who wins, `mlflow_runs`, `table` and `plot` show. `pipelines.tuned` reads.
"""
