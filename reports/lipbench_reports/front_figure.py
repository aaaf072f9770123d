"""Certified robust accuracy against costs, with the Pareto fronts, as an SVG file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from lipbench_reports.cells import with_unit
from lipbench_reports.figures import POINT, ticks
from lipbench_reports.look import LIGHT, Look, looks
from lipbench_reports.svg import INK, PAPER, inline, page_style

PANEL, LEGEND, MARGIN = 400, 150, 60
"""width and height of a panel, width of the legend, and room for the axes, in pixels"""
SECONDS = (("s", 1.0),)
_ALONE = {"currentColor": "#1f1f1f", "var(--grid)": "#dddddd", "var(--paper)": "#ffffff"}
"""variables of a report's page → the colours of a file without one"""


@dataclass(frozen=True)
class Point:
    """A network at one cost."""

    series: str
    """name of its method and implementation in the legend"""
    method: str
    implementation: str
    size: str
    """what is written beside the point"""
    cost: float
    worth: float
    """certified robust accuracy in %"""
    on_front: bool
    chosen: bool
    """whether it satisfies every limit: its marker is full"""


@dataclass(frozen=True)
class Panel:
    """One cost: its name, its units, its points, and the limit on it, if there is one."""

    title: str
    units: Sequence[tuple[str, float]]
    points: Sequence[Point]
    limit: float | None = None


def drawn(panels: Sequence[Panel], registered: Sequence[str], title: str) -> str:
    """The panels side by side as the text of an SVG file. There is at least one, with at least one point."""
    entries = {one.series: (one.method, one.implementation) for panel in panels for one in panel.points}
    look = looks([(series, *own) for series, own in entries.items()], registered)
    width, height = PANEL * len(panels) + LEGEND, PANEL
    with page_style("front"):
        figure = Figure(figsize=(width * POINT, height * POINT), dpi=72)
        for place, panel in enumerate(panels):
            left = (place * PANEL + MARGIN) / width
            axes = figure.add_axes((left, MARGIN / height, (PANEL - 1.5 * MARGIN) / width, 1 - 2 * MARGIN / height))
            _scatter(axes, panel, look)
        marks = [_mark(one, full=True) for one in look.values()]
        figure.legend(marks, list(look), loc="center right", frameon=False, handletextpad=0.4)
        svg = str(
            inline(figure, "front", title, _described(panels), {one.sentinel: LIGHT[one.colour] for one in look.values()})
        )
    for variable, colour in _ALONE.items():
        svg = svg.replace(variable, colour)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1) + "\n"


def _mark(look: Look, *, full: bool) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker=MarkerStyle(look.marker), markersize=6.5, markeredgecolor=look.sentinel,
        markerfacecolor=look.sentinel if full else PAPER,
    )  # fmt: skip


def _scatter(axes: Axes, panel: Panel, look: dict[str, Look]) -> None:
    front = sorted((one.cost, one.worth) for one in panel.points if one.on_front)
    if len(front) > 1:
        axes.plot(*zip(*front), color=INK, linewidth=0.9, dashes=(3, 2), drawstyle="steps-post", zorder=1)
    if panel.limit is not None:
        axes.axvline(panel.limit, color=INK, linewidth=0.7)
    for one in panel.points:
        mark = _mark(look[one.series], full=one.chosen)
        mark.set_data([one.cost], [one.worth])
        mark.set_zorder(3)
        axes.add_line(mark)
        axes.annotate(one.size, (one.cost, one.worth), (5, 4), textcoords="offset points", fontsize=9)
    costs = [*(one.cost for one in panel.points), *([panel.limit] if panel.limit else [])]
    low, high = min(costs) / 1.3, max(costs) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    worths = [one.worth for one in panel.points]
    spare = 0.08 * (max(worths) - min(worths)) or 1.0
    axes.set_ylim(min(worths) - spare, max(worths) + spare)
    marks = ticks(low, high)
    axes.set_xticks(marks, [with_unit(mark, panel.units, round_number=True) for mark in marks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")
    sns.despine(ax=axes)
    axes.set_title("CRA at 36/255, %", loc="left", fontsize=11, pad=10)
    axes.set_xlabel(panel.title)


def _described(panels: Sequence[Panel]) -> str:
    """The fronts, for those who do not see the figure."""
    told = []
    for panel in panels:
        front = sorted((one for one in panel.points if one.on_front), key=lambda one: one.cost)
        names = ", ".join(f"{one.series} {one.size} {one.worth:.1f} % at {with_unit(one.cost, panel.units)}" for one in front)
        told.append(f"Front against {panel.title}: {names}.")
    return " ".join(told)
