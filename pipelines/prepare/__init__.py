"""The stage `prepare`: from labelled photographs to checked Parquet shards, and a report on them.

`stage` goes through the photographs, `records` checks each, `quarantine` lists the bad, `splits` and `groups` divide.
`shard_writer` writes. `report`: `samples`, `statistics`, `charts`, `duplicates`, `finding`, `suspicions`, `oddities`.
"""
