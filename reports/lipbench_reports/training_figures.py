"""Figures of trainings: learning curves, certified robust accuracy against the radius, and what accuracy costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lipbench_reports.cells import BYTES, COUNTS, TIMES, with_unit
from lipbench_reports.figures import (
    LABEL_GAP,
    LABELS_WIDTH,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    POINT,
    colours,
    label_at_right,
    ticks,
)
from lipbench_reports.look import Look
from lipbench_reports.pareto import front
from lipbench_reports.svg import INK, PAPER, belongs, inline, page_style, point
from lipbench_reports.trainings import CERTIFIED, RADII, RANKED_BY, Arena, Group, frame, rows_of

MOST_ARENAS = 3
"""number of arenas with figures: those with the most groups"""
FEWEST_POINTS = 3
"""number of groups from which their costs are drawn"""
MOST_POINTS, MOST_TOLD = 100, 9
"""numbers of points of a learning curve that are drawn, and of those whose values are shown on hovering"""
CURVES = (
    ("loss", "loss of training images", 1.0), ("validation_accuracy", "accuracy of validation images, %", 100.0),
    ("validation_certified", "CRA at 36/255 of validation images, %", 100.0),
    ("accuracy", "accuracy of training images, %", 100.0),
)  # fmt: skip
"""columns of a learning curve, titles of their panels, and factors; the last is drawn where no images were held out"""
DURATIONS = ((7200.0, 3600.0, "h"), (600.0, 60.0, "min"), (0.0, 1.0, "s"))
"""from this time on, the time axis has this unit"""
COSTS = (("seconds_per_epoch", "time per epoch", TIMES), ("peak_bytes", "peak of a training step", BYTES),
         ("parameters", "parameters", COUNTS))  # fmt: skip
WORTHS = (("accuracy", "accuracy"), (RANKED_BY, "CRA at 36/255"))


@dataclass(frozen=True)
class Drawing:
    """A finished figure and its caption."""

    svg: Markup
    caption: str
    series: tuple[str, ...]
    """keys of the groups that are drawn"""


def learning_curves(arenas: Sequence[Arena], curves: pd.DataFrame, looks: Mapping[str, Look]) -> list[Drawing]:
    """Loss, accuracy and certified robust accuracy against training time, one line per seed."""
    points = frame(curves, ["seconds", *(column for column, _, _ in CURVES)])
    found = []
    for number, arena in enumerate(arenas[:MOST_ARENAS]):
        own = points[points["group"].isin([one.identity for one in arena.groups])]
        held = own["validation_accuracy"].notna().any()
        for column, title, factor in CURVES[:3] if held else (CURVES[0], CURVES[3]):
            known = own[np.isfinite(own[column]) & np.isfinite(own["seconds"])]
            if known.empty:
                continue
            _, size, unit = next(one for one in DURATIONS if known["seconds"].max() >= one[0])
            lines = {one.key: [_thinned(line["seconds"] / size, line[column] * factor)
                               for _, line in known[known["group"] == one.identity].groupby("training", sort=False)]
                     for one in arena.groups}  # fmt: skip
            chart = _Chart(f"curve-{number}-{column.replace('_', '-')}", title, f"training time, {unit}", arena, looks)
            found.append(chart.drawn({key: line for key, line in lines.items() if line}))
    return found


def _thinned(x: pd.Series, y: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points of a line, with its ends."""
    places = _few(len(x), MOST_POINTS)
    return x.to_numpy()[places], y.to_numpy()[places]


def _few(length: int, most: int = MOST_TOLD) -> np.ndarray:
    """At most `most` places of a line of this length, evenly spaced, with its ends."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def _radii(grid: np.ndarray) -> np.ndarray:
    """The places of 0 and of the four radii in a grid that has them."""
    return np.flatnonzero(np.isin(np.round(255 * grid, 6), [0, *map(int, RADII)]))


def against_radius(
    arenas: Sequence[Arena], trainings: pd.DataFrame, quantiles: pd.DataFrame, looks: Mapping[str, Look]
) -> list[Drawing]:
    """Certified robust accuracy against the radius, as means over seeds, with markers at the four radii."""
    rows, radii = frame(trainings), frame(quantiles, ["share", "radius"])
    grid = np.unique([*np.linspace(0, 1, 52), *(int(radius) / 255 for radius in RADII)])
    found = []
    for number, arena in enumerate(arenas[:MOST_ARENAS]):
        lines = {}
        for one in arena.groups:
            own = rows[(rows["group"] == one.identity) & rows[RANKED_BY].notna() & (rows["part"] == "test")]
            seeds = [_certified(row, radii[radii["training"] == row["training"]], grid) for row in rows_of(own)]
            if seeds:
                lines[one.key] = [(grid, 100 * np.mean(seeds, axis=0))]
        if lines:
            chart = _Chart(f"radius-{number}", "certified robust accuracy, %", "radius × 255", arena, looks)
            found.append(chart.drawn(lines, _at_radii))
    return found


def _certified(row: Mapping[str, float], radii: pd.DataFrame, grid: np.ndarray) -> np.ndarray:
    """The share that is certified at each radius of the grid, interpolated between the quantiles and the four radii."""
    known = {0.0: row["accuracy"], **{int(radius) / 255: row[name] for radius, name in zip(RADII, CERTIFIED)}}
    known |= {radius: 1 - below for radius, below in zip(radii["radius"], radii["share"]) if radius > 0}
    points = sorted((radius, value) for radius, value in known.items() if math.isfinite(radius) and math.isfinite(value))
    x, y = np.array(points).T
    return np.asarray(np.interp(grid, x, np.minimum.accumulate(y)))


def _at_radii(axes: Axes, arena: Arena, looks: Mapping[str, Look]) -> None:
    axes.set_xticks([0, *(int(radius) / 255 for radius in RADII)], ["0", *RADII])
    axes.set_xlim(0, 1.02)
    for one in arena.groups:
        for radius, name in zip(RADII, CERTIFIED):
            found = one.estimate(name)
            if math.isfinite(found.value):
                look = looks[one.key]
                belongs(one.key, *axes.plot([int(radius) / 255], [100 * found.value], linestyle="none", marker=look.marker,
                                            markersize=5, color=look.sentinel, zorder=3))  # fmt: skip


def against_cost(arenas: Sequence[Arena], looks: Mapping[str, Look]) -> list[Drawing]:
    """Accuracy and certified robust accuracy against three costs, with the Pareto front of the ranked groups."""
    found = []
    for number, arena in enumerate(arenas[:MOST_ARENAS]):
        for cost, words, units in COSTS:
            for worth, title in WORTHS:
                points = {one.key: (one.value(cost), 100 * one.value(worth)) for one in arena.groups}
                points = {key: end for key, end in points.items() if all(map(math.isfinite, end)) and end[0] > 0}
                if len(points) < FEWEST_POINTS:
                    continue
                chart = _Chart(f"cost-{number}-{cost}-{worth}".replace("_", "-"), f"{title}, %", words, arena, looks)
                found.append(chart.scattered(points, units))
    return found


@dataclass(frozen=True)
class _Chart:
    """A panel with one series per group, and their names at the right."""

    identity: str
    title: str
    below: str
    """the name of the horizontal axis"""
    arena: Arena
    looks: Mapping[str, Look]

    @property
    def labels(self) -> dict[str, str]:
        return {one.key: one.label for one in self.arena.groups}

    def drawn(
        self,
        lines: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
        more: Callable[[Axes, Arena, Mapping[str, Look]], None] | None = None,
    ) -> Drawing:
        """Lines: of each group several, such as one per seed."""

        def draw(axes: Axes) -> dict[str, tuple[float, float]]:
            for key, own in lines.items():
                look = self.looks[key]
                for x, y in own:
                    ends = [len(x) - 1] if more is None else []
                    belongs(key, *axes.plot(x, y, color=look.sentinel, linewidth=1.2, dashes=look.dashes or (None, None),
                                            marker=look.marker, markevery=ends, markersize=5))  # fmt: skip
            axes.set_xlim(0)
            axes.yaxis.set_major_locator(MaxNLocator(6))
            if more is None:
                axes.xaxis.set_major_locator(MaxNLocator(6))
            else:
                more(axes, self.arena, self.looks)
            return {key: (float(np.mean([x[-1] for x, _ in own])), float(np.mean([y[-1] for _, y in own])))
                    for key, own in lines.items()}  # fmt: skip

        scale = 255.0 if more else 1.0  # the ticks of radii are in units of 1/255
        told = [(key, x[place], y[place], f"{y[place]:.3g} ({self.title}) at {scale * x[place]:.3g} ({self.below})")
                for key, own in lines.items() for x, y in own
                for place in (_few(len(x)) if more is None else _radii(x))]  # fmt: skip
        return self._inline(draw, len(lines), told)

    def scattered(self, points: Mapping[str, tuple[float, float]], units: Sequence[tuple[str, float]]) -> Drawing:
        """Points of (cost, worth) on a logarithmic axis of costs; hollow ones are not ranked, and not on the front."""
        ranked = {one.key for one in self.arena.ranked}

        def draw(axes: Axes) -> dict[str, tuple[float, float]]:
            best = [points[key] for key in front({key: end for key, end in points.items() if key in ranked})]
            if len(best) > 1:
                axes.plot(*zip(*best), color=INK, linewidth=0.9, dashes=(3, 2), drawstyle="steps-post", zorder=1)
            for key, (x, y) in points.items():
                look = self.looks[key]
                face = look.sentinel if key in ranked else PAPER
                belongs(key, *axes.plot([x], [y], linestyle="none", marker=look.marker, markersize=6.5, zorder=3,
                                        markeredgecolor=look.sentinel, markerfacecolor=face))  # fmt: skip
            axes.set_xscale("log")
            costs = [cost for cost, _ in points.values()]
            low, high = min(costs) / 1.3, max(costs) * 1.3
            axes.set_xlim(low, high)
            marks = ticks(low, high)[:6]
            if len(marks) > 1:
                axes.set_xticks(marks, [with_unit(mark, units, round_number=True) for mark in marks])
            else:
                axes.set_xticks([min(costs), max(costs)], [with_unit(end, units) for end in (min(costs), max(costs))])
            axes.minorticks_off()
            axes.yaxis.set_major_locator(MaxNLocator(6))
            axes.margins(y=0.12)
            return dict(points)

        told = [
            (key, x, y, f"{y:.3g} ({self.title}) at {with_unit(x, units)} ({self.below})") for key, (x, y) in points.items()
        ]
        return self._inline(draw, len(points), told)

    def _inline(
        self,
        draw: Callable[[Axes], Mapping[str, tuple[float, float]]],
        count: int,
        told: Sequence[tuple[str, float, float, str]],
    ) -> Drawing:
        """`told` has the points whose values are shown: key of the group, place in data coordinates, and text."""
        height = max(PANEL_HEIGHT, 70 + LABEL_GAP * count)
        with page_style(self.identity):
            figure = Figure(figsize=(PANEL_WIDTH * POINT, height * POINT), dpi=72)
            left, right, low, high = 44, PANEL_WIDTH - LABELS_WIDTH, 40, height - 26
            axes = figure.add_axes((left / PANEL_WIDTH, low / height, (right - left) / PANEL_WIDTH, (high - low) / height))
            ends = draw(axes)
            axes.set_ylim(axes.get_ylim())  # labels are placed by the limits, which matplotlib finds late
            label_at_right(axes, ends, self.labels, self.looks)
            axes.grid(axis="y")
            sns.despine(ax=axes)
            axes.set_title(self.title, loc="left", fontsize=11, x=-left / (right - left), pad=10)
            axes.set_xlabel(self.below)
            title = f"{self.title} against {self.below}"
            description = f"{title}, {self.arena.words}: {_values(self.arena.groups, ends)}."
            points = [point(axes, key, x, y, f"{self.labels[key]}: {text}") for key, x, y, text in told]
            svg = inline(figure, self.identity, title, description, colours(self.looks), points)
        return Drawing(svg, self.arena.words, tuple(ends))


def _values(groups: Sequence[Group], ends: Mapping[str, tuple[float, float]]) -> str:
    """The last value of each series, for those who do not see the figure."""
    return ", ".join(f"{one.label} {ends[one.key][1]:.3g}" for one in groups if one.key in ends)
