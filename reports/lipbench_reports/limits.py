"""Measured times beside their limits: the share that each phase reaches, and the roofline of the machine.

Source of the figure: Williams, Waterman & Patterson, "Roofline", Communications of the ACM 52 (2009).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from lipbench_reports.cells import COUNTS, TIMES, Cell, Column, Table, alike, heads, table, with_unit
from lipbench_reports.figures import LABELS_WIDTH, PANEL_HEIGHT, PANEL_WIDTH, POINT, colours, label_at_right, ticks
from lipbench_reports.look import Look
from lipbench_reports.prepared import Prepared
from lipbench_reports.svg import INK, inline, page_style
from lipbench_reports.tables import LIMITS, as_text, with_columns

PHASES = {"step": "Training step", "inference": "Inference"}
DRAWN = "step"
"""the phase of the figure"""


@dataclass(frozen=True)
class Section:
    """The part of the report about limits."""

    source: str
    """where the limits are from"""
    peak: str
    bandwidth: str
    shares: Table
    all_shares: Table | None
    roofline: Markup


def section(ready: Prepared, looks: Mapping[str, Look]) -> Section | None:
    """None where no phase has a limit, as for a run of another machine than the one whose rates are known."""
    if ready.tables.limits.empty:
        return None
    rows = _rows(ready)
    if rows.empty:
        return None
    first = rows.iloc[0]
    here = rows[rows["shape"] == ready.shape]
    shares, every = _shares(here, ready), _shares(rows, ready)
    return Section(
        source=as_text(first["source"]),
        peak=with_unit(float(first["macs_per_s"]), COUNTS),
        bandwidth=with_unit(float(first["bytes_per_s"]), COUNTS),
        shares=every if here.empty else shares,
        all_shares=every if len(here) not in (0, len(rows)) else None,
        roofline=_roofline(rows[rows["phase"] == DRAWN], ready, looks),
    )


def _rows(ready: Prepared) -> pd.DataFrame:
    """The phases that are shown, with the series and the shape of their case, in the order of the run."""
    data = with_columns(ready.tables.limits, LIMITS)
    names = ready.rows.drop_duplicates("case").set_index("case")[["series", "shape"]]
    data = data[data["case"].isin(names.index) & data["phase"].isin(PHASES) & (data["seconds"] > 0)]
    order = {one.key: place for place, one in enumerate(ready.series)}
    data = data.join(names, on="case")
    return data.sort_values("series", key=lambda keys: keys.map(order), kind="stable")


def _shares(rows: pd.DataFrame, ready: Prepared) -> Table:
    cases = [(str(series), str(shape)) for series, shape in zip(rows["series"], rows["shape"])]
    times = alike({"Measured": list(rows["seconds"].astype(float)), "Limit": list(rows["floor_s"].astype(float))}, TIMES)
    shares = [_share(floor / seconds) for floor, seconds in zip(rows["floor_s"], rows["seconds"])]
    columns = [
        *heads(cases, ready.labels),
        (Column("Phase", numeric=False), [Cell(PHASES[phase], PHASES[phase]) for phase in rows["phase"]]),
        *times,
        (Column("Share of the limit"), shares),
        (Column("Limited by", numeric=False), [Cell(as_text(bound), as_text(bound)) for bound in rows["bound"]]),
    ]
    return table("Measured time and its limit", columns)


def _share(share: float) -> Cell:
    return Cell(f"{100 * share:.3g} %", share, share=min(share, 1.0)) if math.isfinite(share) else Cell()


def _roofline(rows: pd.DataFrame, ready: Prepared, looks: Mapping[str, Look]) -> Markup:
    """Multiply-accumulates per second against those per byte, for every case, below the roof of the machine."""
    rows = rows[(rows["macs"] > 0) & (rows["bytes"] > 0)]
    if rows.empty:
        return Markup("")
    rows = rows.assign(intensity=rows["macs"] / rows["bytes"], rate=rows["macs"] / rows["seconds"])
    peak, bandwidth = float(rows["macs_per_s"].iloc[0]), float(rows["bytes_per_s"].iloc[0])
    low, high = float(rows["intensity"].min()) / 2, max(float(rows["intensity"].max()), peak / bandwidth) * 2
    keys = [key for key in looks if key in set(rows["series"])]
    with page_style("roofline"):
        figure = Figure(figsize=(PANEL_WIDTH * POINT, PANEL_HEIGHT * POINT), dpi=72)
        left, right = 62 / PANEL_WIDTH, (PANEL_WIDTH - LABELS_WIDTH) / PANEL_WIDTH
        axes = figure.add_axes((left, 0.15, right - left, 0.76))
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(float(rows["rate"].min()) / 2, 2 * peak))
        places = np.geomspace(low, high, 200)
        axes.plot(places, np.minimum(peak, bandwidth * places), color=INK, linewidth=1)
        for key in keys:
            own = rows[rows["series"] == key]
            axes.plot(own["intensity"], own["rate"], linestyle="none", marker=looks[key].marker, markersize=5.5,
                      markerfacecolor=looks[key].sentinel, markeredgecolor=looks[key].sentinel)  # fmt: skip
        marks = ticks(*axes.get_ylim())
        axes.set_yticks(marks, [with_unit(mark, COUNTS, round_number=True) for mark in marks])
        marks = ticks(low, high)
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.minorticks_off()
        axes.set_xlabel("multiply-accumulates per byte")
        axes.set_title("multiply-accumulates per second", loc="left", fontsize=11, x=-left / (right - left))
        last = {key: rows[rows["series"] == key].iloc[-1] for key in keys}
        ends = {key: (float(one["intensity"]), float(one["rate"])) for key, one in last.items()}
        label_at_right(axes, ends, {one.key: one.name for one in ready.series}, looks)
        description = "Every case below the roof of its machine. The numbers are in the table of limits."
        return inline(figure, "roofline", "Roofline of training steps", description, colours(looks))
