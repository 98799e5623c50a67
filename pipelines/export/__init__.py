"""A registered model in forms that run without this project: ONNX and TorchScript.

What the graph computes is `ssd.export`. Here, `write` writes a file, `onnx_file`, `int8_file` and
`torch_file` in its format; `onnx_operators` has resize and NMS in ONNX's operators, `model` finds the weights and says
what the file tells of itself.
"""
