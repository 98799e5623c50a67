"""Ray: a cluster of our own or the one at RAY_ADDRESS, and how a stage gets there.

Others may use `ray` (join or start a cluster, how work is spread), `jobs` (a stage as a Ray job), `remote_job` (any
job), `package` (what travels to a cluster) and `signals` (ctrl-C, SIGTERM, one process a run).
"""
