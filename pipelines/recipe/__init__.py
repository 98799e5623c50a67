"""What `auto` in params.yaml becomes: a pure function of the file and the prepared data, the same on every machine.

Others may use `resolve` (parameters without any `auto`, and why they are so), `boxes` (ground truth of a split) and
`shares` (how many photographs are set aside, for `prepare`). `rules` has one function for each key,
those of `network` and `fine_tuning` apart; `facts` are what they look at.
"""
