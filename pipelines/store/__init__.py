"""Files that must survive: prepared shards and checkpoints, on this machine's disk and the same in S3.

Used by everything above. Others may use all of `shards` (the schema and reading of prepared data), `s3` (an object
store with digests), `shard_transfer` (shards to and from S3), `checkpoints` (the newest whole checkpoint of a run),
`download` (a file from any address) and `readme` (what is in the folder of runs).
"""
