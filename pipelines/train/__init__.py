"""The stage `train`: train what params.yaml says, unless that is done, and register the epoch of `train.select`.

`stage` is the stage; `publish` writes its outputs and registers, `pictures` draws. The training itself is the room
`pipelines.training`.
"""
