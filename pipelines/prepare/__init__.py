"""The stage `prepare`: from labelled photographs to checked Parquet shards, and a report on them.

`stage` examines `records` in `splits` of `groups`; bad ones are in `quarantine`, good ones go to the `shard_writer`.
`pipelines.prepare.report` is what to look at before training.
"""
