"""The figures of costs against the number of channels, as in Figures 2 to 4 of the paper, and against the image size."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipbench_reports.cells import BYTES, TIMES, WIDEST, with_unit
from lipbench_reports.look import Look
from lipbench_reports.prepared import SIZES, Prepared, in_words
from lipbench_reports.svg import INK, PAPER, belongs, inline, page_style, point
from lipbench_reports.tables import predicted_peaks

POINT = 1 / 72
PANEL_WIDTH, PANEL_HEIGHT, LABELS_WIDTH = 350, 290, 92
LABEL_GAP = 13.5
"""points between the baselines of two direct labels"""
MOST_PANELS = 8
LONGEST_LABEL = 15
"""characters; a longer label, such as the path of a class, keeps its end, which says more than its start"""


@dataclass(frozen=True)
class Size:
    """A size that costs are drawn against."""

    column: str
    words: str
    axis: str
    fewest: int
    """number of values from which a panel is worth drawing"""

    def told(self, value: float) -> str:
        """A value in words: "64 channels", "16 × 16 images"."""
        return f"{value:g} channels" if self.column == "channels" else f"{value:g} × {value:g} images"


CHANNELS = Size("channels", "the number of channels", "channels (width)", 1)
IMAGE_SIZE = Size("image_size", "the image size", "image size (height)", 3)


@dataclass(frozen=True)
class Plot:
    """One figure: a cost against a size, with one panel per value of the other sizes and conditions."""

    identity: str
    title: str
    paper: str
    """the corresponding figure of the paper"""
    phase: str
    column: str
    axis: str
    units: Sequence[tuple[str, float]]
    range_columns: tuple[str, str] | None = None
    predicted: str = ""
    """column with the predicted cost, to which lines are drawn where all points have it; "" for lines that join measurements"""
    size: Size = CHANNELS


PEAK, PREDICTED = "peak_memory_bytes", "predicted_peak_bytes"
RATES = (("M/s", 1e6), ("k/s", 1e3), ("/s", 1.0))
STEP_TIME = Plot("time", "Training time", "Figure 2", "step", "median_s", "time of a training step", TIMES, ("low_s", "high_s"))
STEP_PEAK = Plot("memory", "Training memory", "Figure 4", "step", PEAK, "peak of a training step", BYTES, predicted=PREDICTED)
PLOTS = (
    STEP_TIME,
    Plot("throughput", "Inference throughput", "Figure 3", "inference", "images_per_s", "images per second", RATES),
    STEP_PEAK,
    Plot(
        "memory-inference", "Inference memory", "Figure 4", "inference", PEAK, "peak of inference", BYTES, predicted=PREDICTED
    ),
    replace(STEP_TIME, identity="time-image", paper="", size=IMAGE_SIZE),
    replace(STEP_PEAK, identity="memory-image", paper="", size=IMAGE_SIZE),
)


@dataclass(frozen=True)
class Panel:
    """A finished panel and its caption."""

    svg: Markup
    caption: str
    missing: tuple[str, ...] = ()
    """cases under these conditions that have no point"""
    series: tuple[str, ...] = ()
    """keys of the series that are drawn"""


def colours(looks: Mapping[str, Look]) -> dict[str, str]:
    """Stand-in colours of all series and their CSS."""
    return {look.sentinel: look.css for look in looks.values()}


@dataclass(frozen=True)
class Panels:
    """The panels of one figure, and the number of those that would be too many."""

    shown: tuple[Panel, ...]
    left_out: int


def panels(plot: Plot, ready: Prepared, looks: Mapping[str, Look]) -> Panels:
    """One panel per set of conditions other than the plot's size, at most `MOST_PANELS`, those with the most points.

    Where some panels have several sizes, those of layers (or of networks) with a single one are left out.
    Series under a condition with a label, such as compiled ones, have panels of their own. Interpreted cases, and those that
    are not 1-Lipschitz as they claim, are not drawn.
    """
    rows = ready.rows[~ready.rows["interpreted"]]
    narrow = rows["high_s"] <= WIDEST**2 * rows["low_s"]
    rows = rows.assign(low_s=rows["low_s"].where(narrow), high_s=rows["high_s"].where(narrow))
    others = [one.column for one in (*SIZES, *ready.tables.conditions) if one.column != plot.size.column]
    grouped = rows.assign(network=rows["network"] != "").groupby(["network", *others], sort=False, dropna=False)
    known = predicted_peaks(ready.tables)
    peaks = [known.get(place, math.nan) for place in zip(rows["case"], rows["phase"])]
    keyed = rows.assign(panel=grouped.ngroup(), predicted_peak_bytes=pd.Series(peaks, index=rows.index, dtype=float))
    broken = rows["case"].isin(rows.loc[rows["status"] == "not_lipschitz", "case"])
    drawn = keyed[(rows["phase"] == plot.phase) & (rows[plot.column] > 0) & (rows["channels"] > 0) & ~broken]
    sizes = drawn.groupby("panel")[plot.size.column].transform("nunique")
    most = sizes.groupby(drawn["network"] != "").transform("max")
    drawn = drawn[sizes >= most.clip(plot.size.fewest, max(2, plot.size.fewest))]
    marks = {one.key: one.marks for one in ready.series}
    every = [(group, marks[group["series"].iloc[0]]) for _, group in drawn.groupby("panel", sort=False)]
    chosen = sorted(every, key=lambda item: len(item[0]), reverse=True)[:MOST_PANELS]
    chosen.sort(key=lambda item: (item[0]["network"].iloc[0] != "", -float(item[0]["image_size"].max()), item[1]))
    # layers first, large images first, compiled after uncompiled
    short = {one.key: one.name for one in ready.series}  # the caption names the conditions
    result = []
    for place, (group, own) in enumerate(chosen):
        same = keyed[keyed["panel"] == group["panel"].iloc[0]]
        failed = same[same["status"] != "ok"]
        missing = [f"{ready.labels[k]} at {size:g}" for k, size in zip(failed["series"], failed[plot.size.column])]
        caption = ", ".join([in_words(group, ready.tables.conditions), *own])
        caption = f"Networks: {caption}" if group["network"].iloc[0] else caption
        keys = tuple(key for key in looks if key in set(group["series"]))
        svg = _panel(f"{plot.identity}-{place}", plot, group, keys, short, looks, caption)
        result.append(Panel(svg, caption, tuple(dict.fromkeys(missing)), keys))
    return Panels(tuple(result), len(every) - len(result))


def _panel(
    identity: str,
    plot: Plot,
    points: pd.DataFrame,
    keys: Sequence[str],
    labels: Mapping[str, str],
    looks: Mapping[str, Look],
    caption: str,
) -> Markup:
    height = max(PANEL_HEIGHT, 70 + LABEL_GAP * len(keys))  # room for one label per series
    with page_style(identity):
        figure = Figure(figsize=(PANEL_WIDTH * POINT, height * POINT), dpi=72)
        left, right, low, high = 58, PANEL_WIDTH - LABELS_WIDTH, 40, height - 26
        axes = figure.add_axes((left / PANEL_WIDTH, low / height, (right - left) / PANEL_WIDTH, (high - low) / height))
        _scales(axes, plot, points)
        _lines(axes, plot, points, keys, looks)
        _direct_labels(axes, plot, points, keys, labels, looks)
        axes.grid(axis="y")
        sns.despine(ax=axes)
        title = f"{plot.axis}; lines: predicted" if _is_predicted(plot, points) else plot.axis
        axes.set_title(title, loc="left", fontsize=11, x=-left / (right - left), pad=10)
        axes.set_xlabel(plot.size.axis)
        axes.set_ylabel("")
        description = f"{plot.title} against {plot.size.words}, {caption}. The numbers are in the table of all measurements."
        told = [
            point(axes, row["series"], row[plot.size.column], row[plot.column], _told(plot, row, labels))
            for row in points.to_dict("records")
        ]
        return inline(figure, identity, plot.title, description, colours(looks), told)


def _told(plot: Plot, row: Mapping[Hashable, Any], labels: Mapping[str, str]) -> str:
    """ "AOL, 64 channels: 3.20 ms (3.15 ms to 3.25 ms)"."""
    low, high = (row[name] for name in plot.range_columns) if plot.range_columns else (math.nan, math.nan)
    interval = f" ({with_unit(low, plot.units)} to {with_unit(high, plot.units)})" if low < high else ""
    doubt = ", contended" if row["contended"] and plot.column != PEAK else ""
    expected = row[plot.predicted] if plot.predicted else math.nan
    prediction = "" if math.isnan(expected) else f", predicted {with_unit(expected, plot.units)}"
    value = with_unit(row[plot.column], plot.units)
    return f"{labels[row['series']]}, {plot.size.told(row[plot.size.column])}: {value}{interval}{prediction}{doubt}"


def _is_predicted(plot: Plot, points: pd.DataFrame) -> bool:
    """Whether the lines of a panel are predictions: where all of its points have one. Otherwise they join measurements."""
    return bool(plot.predicted) and bool(points[plot.predicted].notna().all())


def _scales(axes: Axes, plot: Plot, points: pd.DataFrame) -> None:
    """Set logarithmic axes with few round ticks: the sizes that were measured, and 1-2-5 steps in the best unit."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    widths = sorted(points[plot.size.column].unique())
    axes.set_xlim(widths[0] / 1.25, widths[-1] * 1.25)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    told = [plot.column, *(plot.range_columns or ()), *([plot.predicted] if _is_predicted(plot, points) else ())]
    values = points[told].to_numpy(dtype=float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high / low < 3:  # a range this small might contain no tick
        low, high = low / math.sqrt(3), high * math.sqrt(3)
    axes.set_ylim(low / 1.2, high * 1.2)
    marks = ticks(low / 1.2, high * 1.2)
    axes.set_yticks(marks, [with_unit(mark, plot.units, round_number=True) for mark in marks])
    axes.minorticks_off()


def ticks(low: float, high: float) -> list[float]:
    """At most seven round values between `low` and `high`: 1-2-5, 1-3 or 1 per decade."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    series = [[digit * 10.0**decade for decade in decades for digit in step] for step in ((1, 2, 5), (1, 3), (1,))]
    inside = [[value for value in values if low <= value <= high] for values in series]
    return next((values for values in inside if len(values) <= 7), inside[-1])


def _lines(axes: Axes, plot: Plot, points: pd.DataFrame, keys: Sequence[str], looks: Mapping[str, Look]) -> None:
    height, size = plot.predicted if _is_predicted(plot, points) else plot.column, plot.size.column
    for key in keys:
        own, look = points[points["series"] == key].sort_values(size), looks[key]
        line = own.groupby(size)[height].median()
        belongs(key, *axes.plot(line.index, line, color=look.sentinel, linewidth=1.4, dashes=look.dashes or (None, None)))
        if plot.range_columns:
            low, high = (own[name].to_numpy() for name in plot.range_columns)
            belongs(key, axes.vlines(own[size].to_numpy(), low, high, colors=look.sentinel, linewidths=1))
        doubtful = own["contended"] & (plot.column != PEAK)
        for chosen, face in ((own[~doubtful], look.sentinel), (own[doubtful], PAPER)):
            belongs(key, *axes.plot(
                chosen[size], chosen[plot.column], linestyle="none", marker=look.marker, markersize=5.5,
                markerfacecolor=face, markeredgecolor=look.sentinel, markeredgewidth=1, zorder=3,
            ))  # fmt: skip


def _direct_labels(
    axes: Axes, plot: Plot, points: pd.DataFrame, keys: Sequence[str], labels: Mapping[str, str], looks: Mapping[str, Look]
) -> None:
    last = points.sort_values(plot.size.column).groupby("series").last()
    label_at_right(axes, {key: (*last.loc[key, [plot.size.column, plot.column]].astype(float),) for key in keys}, labels, looks)


def label_at_right(
    axes: Axes, ends: Mapping[str, tuple[float, float]], labels: Mapping[str, str], looks: Mapping[str, Look]
) -> None:
    """Write each series' name to the right of its end, in data coordinates, linked by a thin line; move apart names that would
    overlap."""
    places = {key: axes.transData.transform(np.asarray(end, dtype=float)) for key, end in ends.items()}
    bottom, top = axes.bbox.y0, axes.bbox.y1
    edge = axes.bbox.x1
    ordered = sorted(ends, key=lambda key: float(places[key][1]))
    heights = apart([float(places[key][1]) for key in ordered], LABEL_GAP, bottom, top)
    to_axes = axes.transAxes.inverted().transform
    for key, height in zip(ordered, heights):
        (x, y), (end, level), (text, _) = (to_axes(p) for p in (places[key], (edge + 8, height), (edge + 12, height)))
        colour = looks[key].sentinel
        link = axes.plot([x, end], [y, level], transform=axes.transAxes, color=colour, linewidth=0.6, clip_on=False, alpha=0.6)
        label = labels[key] if len(labels[key]) <= LONGEST_LABEL else f"…{labels[key][-LONGEST_LABEL + 1 :]}"
        name = axes.text(text, level, label, transform=axes.transAxes, fontsize=10.5, color=INK, va="center", ha="left")
        belongs(key, *link, name)


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved as little as needed to be `gap` apart, between `low` and `high` if there is room."""
    placed: list[list[float]] = []  # runs of labels that would overlap: their wanted heights
    for height in heights:
        placed.append([height])
        while len(placed) > 1 and _start(placed[-2], gap, low, high) + gap * len(placed[-2]) > _start(
            placed[-1], gap, low, high
        ):
            placed[-2:] = [placed[-2] + placed[-1]]
    return [_start(run, gap, low, high) + gap * place for run in placed for place in range(len(run))]


def _start(run: Sequence[float], gap: float, low: float, high: float) -> float:
    """Lowest height of a run of labels, centred on the mean of their wanted heights."""
    length = gap * (len(run) - 1)
    return max(low, min(sum(run) / len(run) - length / 2, high - length))
