"""The stage `prepare`: from labelled photographs to checked Parquet shards, and a report on them.

`stage` goes through the photographs, `records` checks each, `quarantine` lists the bad ones, `splits`, `shard_writer`.
`report` has `samples`, `statistics`, `charts`, `duplicates` and each `finding` of `suspicions` and `oddities`.
"""
