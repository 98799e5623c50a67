"""MLflow: where a result comes from, runs that survive any kill, and the model registry.

Others may use `runs` (open, log, close a run), `provenance` (tags, digests of code), `registry` (register and find
a version), `formats` (its files in other formats), `gate` (pass or fail one), `champion` (who it is, and the way
back), `view` (the page that opens first). `served_model` is what MLflow itself runs of a registered version.
"""
