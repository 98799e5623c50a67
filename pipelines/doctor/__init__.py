"""The tool `doctor`: all that could stop a long run, checked in seconds; each finding with its fix.

`checks` runs them all. `machine` and data are `preflight`'s part; `repository` (git, DVC), `tracking` (MLflow),
`storage` (S3), `gpu`, `cluster` (Ray; `jobs` takes it to a job server, `probes` run on its `nodes`) look further.
`report` prints.
"""
