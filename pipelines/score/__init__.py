"""The tool `score`: detect in any number of photographs, and go on where a killed run stopped.

`source` lists them and `photographs` reads them, `manifest` says what a folder of results belongs to, `detect` runs the
detector on Ray Data, `results` has the parts that it wrote, `formats` makes labels of them, `drift` compares with the
training, and `run` does all this in order.
"""

FORMATS = ("coco", "voc", "yolo")  # labels that results can be written as
