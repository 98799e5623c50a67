"""The tool `doctor`: all that could stop a long run, checked in seconds; each finding with its fix.

`machine` and data are `preflight`'s part; `anchors`, `repository` (git, DVC), `tracking` (MLflow), `storage` (S3),
`gpu`, `cluster` (Ray; `jobs` takes it to a job server, `probes` run on the nodes) look further. `report` prints.
"""
