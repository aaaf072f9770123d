"""Exponents fitted over the channels, with those of the formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from lipbench_reports.intervals import used

from lipbench.analysis.expected import leading_exponent
from lipbench.analysis.statistics import levels, power_law, timings_by_phase
from lipbench.cases import CONDITIONS
from lipbench.store.records import Run

LEAST_CHANNELS = 3
"""Least number of different channel counts that an exponent is fitted to."""
SIZES = ("image_size", "kernel_size", "batch_size")
"""columns of the sizes that are constant within a series"""


def exponents(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Exponents in the channels of every quantity, with those of the formulas; `frame` is `rows.measured_rows(run)`.

    Only layers with at least three channel counts at equal other sizes have exponents, and no interpreted measurement does. If
    several such series share method, implementation and labelled conditions (such as compiled), the one with the most channel
    counts is used. Times are fitted to the median of each round. Counted quantities have no error; in place of an interval they
    have the least and the greatest slope between neighbouring channel counts. `theory_exponent` is the same fit to the numbers
    of the exact formula, `leading_exponent` the exponent of Table 1.
    """
    medians = {
        (record.case.id, phase): [one.median_s for one in used(levels(timings))]
        for record in run.records
        for phase, timings in timings_by_phase(record).items()
    }
    layers = frame[(frame["network"] == "") & (frame["phase"] != "") & ~frame["interpreted"].astype(bool)]
    found = []
    identity = ["method", "title", "implementation", *_columns(frame, labelled=True)]
    setting = [*SIZES, *_columns(frame, labelled=False)]
    for names, own in layers.groupby(identity, sort=False):
        series = max((one for _, one in own.groupby(setting, sort=False)), key=lambda one: one["channels"].nunique())
        found += [
            {**dict(zip(identity, names)), **row}
            for quantity in _quantities(series)
            if (row := _exponent_row(series, quantity, medians))
        ]
    return pd.DataFrame(found, columns=[*identity, *_FITTED])


def _columns(frame: pd.DataFrame, *, labelled: bool) -> list[str]:
    """The frame's columns of conditions: those that distinguish series (labelled), or the others."""
    return [one.column for one in CONDITIONS if one.column in frame and bool(one.label) == labelled]


_FITTED = (
    "quantity", "exponent", "low", "high", "least_slope", "greatest_slope", "points", "theory_exponent", "leading_exponent",
)  # fmt: skip


@dataclass(frozen=True)
class _Quantity:
    name: str
    phase: str
    column: str
    theory_column: str | None
    published: str | None
    """the formula of Table 1 to compare with"""


def _quantities(series: pd.DataFrame) -> Iterator[_Quantity]:
    for phase in series["phase"].unique():
        yield _Quantity(f"time: {phase}", phase, "median_s", "theory_macs", None if phase == "first_inference" else "macs")
    yield _Quantity("MACs: forward", "forward", "macs", "theory_macs", "macs")
    yield _Quantity("saved memory", "forward", "saved_memory_bytes", "theory_memory_elements", "memory")
    yield _Quantity("peak memory: step", "step", "peak_memory_bytes", None, None)


def _positive_points(rows_of_phase: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    pairs = rows_of_phase[["channels", column]].dropna().to_numpy(dtype=float)
    return [(float(channels), float(value)) for channels, value in pairs if value > 0]


def _spans(points: Sequence[tuple[float, float]]) -> bool:
    return len({channels for channels, _ in points}) >= LEAST_CHANNELS


def _exponent_row(
    series: pd.DataFrame, quantity: _Quantity, medians: dict[tuple[str, str], list[float]]
) -> dict[str, Any] | None:
    chosen = series[series["phase"] == quantity.phase]
    points = [
        (float(row["channels"]), float(value))
        for _, row in chosen.iterrows()
        for value in (
            medians.get((row["case"], quantity.phase), []) if quantity.column == "median_s" else [row[quantity.column]]
        )
        if pd.notna(value) and value > 0
    ]
    if not _spans(points):
        return None
    fit = power_law(*zip(*points))
    spread: dict[str, float] = {"low": fit.low, "high": fit.high}
    if quantity.column != "median_s":
        steps = [pair for pair in itertools.pairwise(sorted(points)) if pair[0][0] < pair[1][0]]
        slopes = [power_law(*zip(*pair)).exponent for pair in steps]
        spread = {"least_slope": min(slopes), "greatest_slope": max(slopes)}
    theory = _positive_points(chosen, quantity.theory_column) if quantity.theory_column else []
    method = str(chosen["method"].iloc[0])
    return {
        "quantity": quantity.name, "exponent": fit.exponent, **spread, "points": len(points),
        "theory_exponent": power_law(*zip(*theory)).exponent if _spans(theory) else math.nan,
        "leading_exponent": math.nan if quantity.published is None
        else leading_exponent(method, quantity.published, quantity.phase),
    }  # fmt: skip
