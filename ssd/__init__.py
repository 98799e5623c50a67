"""SSD detectors: anchors, matching, losses, networks, training steps, detection and its metrics.

Needs torch, torchvision, numpy and Pillow alone. `model` and `presets` are the networks, `trainer` a step of training,
`prediction` a trained detector in use, `metrics` average precision.
"""
