"""Pictures of the result pages: what grafts did to a metric, a dot per seed. SVG; the same figures, the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#2a6fbb", "#d2691e", "#4b8b3b", "#7a4fa3")
ROW, WIDTH, MARGIN = 0.28, 7.6, 0.7
"""Inches: height of a row, width of the picture, height of what is not rows."""
PANEL = 2.4
"""Inches: height of panels side by side."""
APART = 0.36
"""Between the first and the last series of a row, in rows."""
STYLE = {"font.size": 8.5, "svg.fonttype": "none", "font.family": "sans-serif"}


@dataclass(frozen=True)
class Line:
    """One row: series -> a value per seed. `bound`: what was to be kept to; `muted` rows are controls."""

    label: str
    values: Mapping[str, Sequence[float]]
    bound: float | None = None
    muted: bool = False


def dots(path: Path, lines: Sequence[Line], axis: str) -> None:
    """Write the picture: values on a logarithmic axis, a row per line, the first on top."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    series = list(dict.fromkeys(name for line in lines for name in line.values))
    with pyplot.rc_context({**STYLE, "svg.hashsalt": path.stem}):
        figure, plot = pyplot.subplots(figsize=(WIDTH, ROW * len(lines) + MARGIN), layout="constrained")
        for row, line in enumerate(lines):
            _row(plot, row, line, series)
        _axes(plot, [line.label for line in lines], axis)
        if len(series) > 1:
            handles = [
                plot.plot([], [], "o", markersize=4.5, color=COLOURS[k], label=n)[0] for k, n in enumerate(series)
            ]
            figure.legend(handles=handles, loc="outside upper right", ncols=len(series), frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _row(plot: Any, row: int, line: Line, series: Sequence[str]) -> None:
    for place, name in enumerate(series):
        found, colour = list(line.values.get(name, ())), COLOURS[place]
        height = row + (APART * (place / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0)
        fill = "white" if line.muted else colour
        plot.plot(found, [height] * len(found), "o", ms=4.5, mec=colour, mfc=fill, alpha=0.85)
    if line.bound is not None:
        plot.plot([line.bound] * 2, [row - 0.4, row + 0.4], color="#c33333", linewidth=1.6)


def _axes(plot: Any, labels: Sequence[str], axis: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plot.set_xscale("log")
    plot.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plot.xaxis.set_minor_formatter(NullFormatter())
    plot.set_yticks(range(len(labels)), labels)
    plot.set_ylim(len(labels) - 0.5, -0.5)
    plot.set_xlabel(axis)
    plot.grid(axis="x", color="#dddddd", linewidth=0.6)
    plot.set_axisbelow(True)
    plot.spines[["top", "right", "left"]].set_visible(False)
    plot.tick_params(axis="y", length=0)


@dataclass(frozen=True)
class Curve:
    """One line of a panel: place on the axis -> a value per seed."""

    label: str
    values: Sequence[Sequence[float]]


def curves(path: Path, panels: Mapping[str, Sequence[Curve]], places: Sequence[str], axis: str) -> None:
    """Write the picture: panels side by side, of the same curves over the same places, means with a dot per seed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({**STYLE, "svg.hashsalt": path.stem}):
        figure, plots = pyplot.subplots(
            1, len(panels), figsize=(WIDTH, PANEL), sharey=True, layout="constrained", squeeze=False
        )
        for plot, (title, lines) in zip(plots[0], panels.items(), strict=True):
            for colour, line in zip(COLOURS, lines, strict=False):
                _curve(plot, line, colour)
            plot.set_title(title, fontsize=9)
            plot.set_xticks(range(len(places)), places)
            plot.grid(axis="y", color="#dddddd", linewidth=0.6)
            plot.spines[["top", "right"]].set_visible(False)
        plots[0][0].set_ylabel(axis)
        handles, labels = plots[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _curve(plot: Any, line: Curve, colour: str) -> None:
    means = [sum(values) / len(values) for values in line.values]
    plot.plot(range(len(means)), means, color=colour, linewidth=1.4, label=line.label)
    for place, values in enumerate(line.values):
        plot.plot([place] * len(values), values, "o", ms=3, mec=colour, mfc=colour, alpha=0.6)
