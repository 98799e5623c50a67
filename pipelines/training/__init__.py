"""Training a detector, whoever asks: the stage `train` on Ray Train's workers, the stage `tune` in its trials.

Others may use `loop` (what one worker does), `order` (which image when), `ending` (when it is over), `batches` (of
augmented images), `tiled` (in photographs' stead), `workers` (Ray Train around the loop) and `worker` (one of them),
`initial_weights`, `messages` and `progress` (what workers say), `time_parts`.
"""
