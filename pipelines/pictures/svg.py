"""Charts as SVG text that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re

from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until the SVG is written


def canvas(x: str, y: str):
    """An empty chart with a grid and these axis labels: its figure and its axes, both 0..1."""
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.01, 1.01), ylim=(0, 1.03), xlabel=x, ylabel=y)
    axes.grid(color=INK, alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.spines.values()):
        part.set_color(INK)
    return figure, axes


def to_svg(figure: Figure, axes, title: str, legend: str | None = None) -> str:
    """The figure as an <svg> element with `title` for screen readers; the same figure gives the same text."""
    import matplotlib

    plain = {"svg.fonttype": "none", "font.family": "sans-serif", "text.parse_math": False}  # a class may be called $5
    with matplotlib.rc_context(plain | {"svg.hashsalt": title}):
        if legend and axes.get_legend_handles_labels()[1]:
            axes.legend(loc=legend, frameon=False, labelcolor=INK, fontsize=9)
        figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", svg)
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{title}" ', svg, count=1)
