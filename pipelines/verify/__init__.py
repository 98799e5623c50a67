"""The tool `verify`: walk a registered version back to the bytes that it came from, and say which link does not hold.

`chain` is the whole walk, `links` what is said of a link, `origin` looks up what is known of a version, `repository`
reads git and dvc.lock; `lineage`, `data` and `measurement` check link by link, `retrain` trains again.
"""
