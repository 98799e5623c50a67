"""What several rooms draw with: the colours of classes, boxes on photographs, charts as SVG.

Others may use `palette`, `boxes` and `svg`. Nothing here knows of stages or data sets.
"""
