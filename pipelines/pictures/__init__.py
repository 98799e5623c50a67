"""What several rooms draw with: the colours of classes, boxes on photographs, charts as SVG, the frame of reports.

Others may use `palette`, `boxes`, `svg` and `page`. Nothing here knows of stages or data sets.
"""
