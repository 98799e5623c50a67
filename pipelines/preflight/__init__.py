"""What can be known before a training starts: whether parameters, data and this machine fit each other.

Others may use `findings` (what a check says, and what follows from it), `parameters` (params.yaml against the data,
with `anchors`), `packages` (Python and requirements.lock), `machine` (processor, memory, disks) and `estimates`.
"""
