"""The stage `generate`: the default data, bananas in the layout of d2l.ai 14.6, drawn by this code.

`stage` writes the data set, `scenes` paints a photograph, `backdrops` what is behind the banana. It has a `dvc.yaml`
of its own, so that `dvc repro` comes here only while data.dvc imports what it writes.
"""
