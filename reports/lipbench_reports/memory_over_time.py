"""Memory over the operations of a training step, as a figure in a file of its own."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lipbench_reports.cells import BYTES, with_unit
from lipbench_reports.figures import POINT
from lipbench_reports.look import LIGHT
from lipbench_reports.svg import FAINT, INK, PAPER, page_style

WIDTH, HEIGHT = 860, 400
MOST_POINTS = 1500
"""number of points that are drawn; of the operations behind one point, the largest value"""
COLOURS = {INK: "#1f1f1f", FAINT: "#d5d5d5", PAPER: "#ffffff"}
"""colours for the stand-ins of `svg`, since no page surrounds the figure"""


def drawn(moments: pd.DataFrame, title: str) -> str:
    """The figure as the text of an SVG file.

    `moments` has one row per operation in order, the first for the state before, with the columns number, phase, place,
    operation and reached_bytes.
    """
    highest = moments.iloc[int(moments["reached_bytes"].to_numpy().argmax())]
    numbers, sizes = _thinned(moments["reached_bytes"].to_numpy(dtype=float))
    unit = next((unit for unit in BYTES if sizes.max() >= unit[1]), BYTES[-1])
    with page_style("memory-over-time"):
        figure = Figure(figsize=(WIDTH * POINT, HEIGHT * POINT), layout="constrained", facecolor=PAPER)
        axes = figure.add_subplot()
        axes.fill_between(numbers, sizes / unit[1], step="post", color=LIGHT[1], alpha=0.35, linewidth=0)
        axes.step(numbers, sizes / unit[1], where="post", color=LIGHT[1], linewidth=1)
        before = moments["reached_bytes"].iloc[0] / unit[1]
        axes.axhline(before, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, len(moments))
        axes.set_ylim(0, sizes.max() / unit[1] * 1.22)
        for phase, own in moments.iloc[1:].groupby("phase", sort=False):
            axes.axvline(own["number"].iloc[0], color=INK, linewidth=0.6)
            axes.annotate(f" {phase}", (own["number"].iloc[0], 1), xycoords=("data", "axes fraction"), va="top")
        side = "left" if highest["number"] < len(moments) / 2 else "right"
        label = f"{with_unit(highest['reached_bytes'], BYTES)}: {' '.join((highest['place'], highest['operation'])).strip()}"
        axes.plot(highest["number"], highest["reached_bytes"] / unit[1], marker="o", color=LIGHT[2])
        axes.annotate(
            label, (highest["number"], highest["reached_bytes"] / unit[1]), xytext=(0, 8), textcoords="offset points", ha=side
        )
        axes.set_xlabel("operations of a training step; dotted: memory in use before it (weights, optimizer, input)")
        axes.set_ylabel(f"memory in use, {unit[0]}")
        axes.set_title(title, loc="left", fontsize=10, wrap=True)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "lipbench", "Title": title})
    text = buffer.getvalue()
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return text


def _thinned(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of operations, and the largest size from each up to the next."""
    starts = np.unique(np.linspace(0, len(sizes), min(len(sizes), MOST_POINTS), endpoint=False).astype(int))
    return starts, np.maximum.reduceat(sizes, starts)
