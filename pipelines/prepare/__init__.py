"""The stage `prepare`: from labelled photographs to checked Parquet shards.

`stage` goes through the photographs, `records` checks each, `quarantine` reports the bad ones, `splits` divides,
`groups` says what belongs together, `shard_writer` writes. What it writes is read by `pipelines.store.shards`.
"""
