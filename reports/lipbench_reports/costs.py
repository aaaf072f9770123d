"""Costs of all series relative to a reference series, which series are ranked by them, and the scores of the radar.

A ratio is a geometric mean over shapes, and all ranked series have it over the same shapes: those at which at least half of the
methods gave numbers that may be ranked. A method that lacks one of these shapes is not ranked. So a method that fails at large
shapes cannot win by its small ones, and it cannot remove the large shapes from the comparison of the others. A time may be
ranked if no other process was busy and its case has a certificate. Ratios of times are those of rounds of the same number,
with an interval over rounds; methods whose intervals overlap are equal. A compiled method is compared only with the same method
uncompiled, in `compilation`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lipbench_reports.cells import CONTENDED, PARTIAL, VIOLATION
from lipbench_reports.intervals import Estimate, estimate, paired
from lipbench_reports.prepared import Prepared, Series
from lipbench_reports.tables import YARDSTICK, certificate_fails, is_missing


@dataclass(frozen=True)
class Measure:
    """A cost: a column of the rows of one phase."""

    title: str
    phase: str
    column: str
    timed: bool
    """times can be contended, bytes cannot"""


MEASURES = (
    Measure("training step", "step", "median_s", True),
    Measure("inference", "inference", "median_s", True),
    Measure("training memory", "step", "peak_memory_bytes", False),
    Measure("inference memory", "inference", "peak_memory_bytes", False),
)
AXES = ("training speed", "inference speed", "training memory", "inference memory")
"""The measures as scores, in the same order: higher is better."""


@dataclass(frozen=True)
class Relative:
    """The cost of one series relative to the reference."""

    estimate: Estimate
    shapes: int
    """number of shapes in the geometric mean"""
    mark: str = ""
    """contended, not 1-Lipschitz, or partial: not over the shapes at which the others are compared"""

    @property
    def ratio(self) -> float:
        return self.estimate.value


NOTHING = Relative(Estimate(math.nan), 0)


@dataclass(frozen=True)
class Comparison:
    """All series compared by one measure."""

    shapes: Sequence[str] = ()
    """the shapes that all ranked series have"""
    entries: Mapping[str, Relative] | None = None
    """by series key, ranked or not"""
    ranked: frozenset[str] = frozenset()
    left_out: Mapping[str, str] | None = None
    """key of a series that lacks a shape of the others → what it has"""
    hindrance: str = ""
    """why no series is ranked"""


@dataclass(frozen=True)
class Costs:
    """All relative costs of a run, and which series may be ranked by them."""

    series: Sequence[Series]
    reference: Series | None
    comparisons: Mapping[str, Comparison]
    """by measure title"""
    excluded: Mapping[str, Sequence[str]]
    """key of a series that claims to be 1-Lipschitz and is not → the shapes at which it is not; such series are not ranked"""
    unproven: frozenset[str]
    """series that are not ranked because none of their cases has a certificate"""
    yardsticks: frozenset[str]
    """series that make no claim to be 1-Lipschitz; they are shown for comparison and not ranked"""

    def of(self, measure: str, series: Series) -> Relative:
        return (self.comparisons[measure].entries or {}).get(series.key, NOTHING)

    def ranking(self, measure: str) -> list[tuple[Series, Relative]]:
        """The ranked series, cheapest first."""
        ranked = self.comparisons[measure].ranked
        entries = [(one, self.of(measure, one)) for one in self.series if one.key in ranked]
        return sorted(entries, key=lambda entry: entry[1].ratio)

    def score(self, measure: str, series: Series) -> float:
        """5 for at most the cost of the reference, one less for each doubling, 1 from a factor of 16 up; NaN if not ranked."""
        if series.key not in self.comparisons[measure].ranked:
            return math.nan
        return min(5.0, max(1.0, 5 - math.log2(self.of(measure, series).ratio)))


def costs(ready: Prepared) -> Costs:
    """The relative costs of the uncompiled series of a run."""
    return costs_within(ready.written)


def costs_within(ready: Prepared) -> Costs:
    """The relative costs of all series of these rows."""
    rows, series = ready.rows, ready.series
    base = _reference(rows, series)
    unclaimed = _unclaimed(ready.methods)
    yardsticks = frozenset(one.key for one in series if one.method in unclaimed)
    excluded = {key: shapes for key, shapes in _refuted(rows).items() if key not in yardsticks}
    measured = rows[rows["phase"] != ""]
    with_certificate = set(measured.loc[measured["certificate"].notna(), "series"])
    return Costs(
        series=series,
        reference=base,
        comparisons={measure.title: _compared(ready, measure, base, yardsticks, excluded) for measure in MEASURES},
        excluded=excluded,
        unproven=frozenset(set(measured["series"]) - with_certificate - yardsticks - set(excluded)),
        yardsticks=yardsticks,
    )


def _reference(rows: pd.DataFrame, series: Sequence[Series]) -> Series | None:
    """The reference: Standard, or else the series with the most cases that worked; None if none did."""
    worked = (rows["median_s"].notna() | rows["peak_memory_bytes"].notna()) & ~rows["interpreted"]
    counts = rows[worked].groupby("series")["shape"].nunique()
    working = [one for one in series if one.key in counts.index]
    yardsticks = [one for one in working if one.method == YARDSTICK]
    candidates = [one for one in yardsticks if one.implementation == "paper"] or yardsticks
    return candidates[0] if candidates else max(working, key=lambda one: int(counts[one.key]), default=None)


def _refuted(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Keys of the series with a case that is not 1-Lipschitz, and the shapes of these cases."""
    fails = [certificate_fails(*pair) for pair in zip(rows["certificate"], rows["certificate_kind"])]
    failing = rows[(rows["status"] == "not_lipschitz") | pd.Series(fails, index=rows.index, dtype=bool)]
    return {str(key): list(dict.fromkeys(group["shape"])) for key, group in failing.groupby("series")}


def _unclaimed(methods: pd.DataFrame) -> set[str]:
    """Methods that do not claim to be 1-Lipschitz."""
    claims = zip(methods["method"], methods["lipschitz"])
    return {str(name) for name, claim in claims if not is_missing(claim) and not claim}


def _compared(
    ready: Prepared, measure: Measure, base: Series | None, yardsticks: Iterable[str], excluded: Collection[str]
) -> Comparison:
    """Each series relative to `base`. A series is ranked if it has all shapes and is neither a yardstick nor excluded."""
    rows = ready.rows
    chosen = rows[(rows["phase"] == measure.phase) & (rows[measure.column] > 0) & ~rows["interpreted"]]
    if base is None or base.key not in set(chosen["series"]):
        return Comparison(hindrance="nothing comparable was measured")
    values = chosen.pivot_table(index="shape", columns="series", values=measure.column, aggfunc="median", sort=False)
    values = values.reindex([shape for shape in ready.shapes if shape in values.index])
    known, busy, blind, proven = (
        values.notna(),
        _any(chosen, chosen["contended"] & measure.timed, values),
        _any(chosen, chosen["unwatched"] & measure.timed, values),
        _any(chosen, chosen["certificate"].notna(), values),
    )
    both = known & known[[base.key]].to_numpy()
    clean = both & ~busy & ~busy[[base.key]].to_numpy()
    candidates = [key for key in values.columns if key not in {*yardsticks, *excluded}]
    valid = (clean & proven & ~blind & ~blind[[base.key]].to_numpy())[candidates]
    shapes = common_shapes(valid)
    ranked = frozenset(str(key) for key in candidates if shapes and valid.loc[shapes, key].all())
    entries = {}
    for key in values.columns:
        used = _used(both[key], clean[key], shapes or common_shapes(clean))
        if used:
            ratio = _ratio(ready, measure, values.loc[used], str(key), base.key)
            mark = CONTENDED if not clean.loc[used, key].all() else PARTIAL if shapes and set(used) != set(shapes) else ""
            entries[str(key)] = Relative(ratio, len(used), VIOLATION if key in excluded else mark)
    left_out = {
        str(key): _has(len(shapes), known.loc[shapes, key], proven.loc[shapes, key], clean.loc[shapes, key])
        for key in candidates
        if shapes and key not in ranked and proven[key].any()
    }
    return Comparison(shapes, entries, ranked, left_out, "" if ranked else _hindrance(both[candidates], clean, blind, proven))


def _ratio(ready: Prepared, measure: Measure, values: pd.DataFrame, key: str, base: str) -> Estimate:
    """The geometric mean of the ratios to the reference over the shapes of `values`, of times paired by round.

    Bytes are the same in all rounds. Times without rounds give a ratio without an interval.
    """
    whole = [[float(np.log(own / other))] for own, other in zip(values[key], values[base])]
    if not measure.timed:
        return estimate([one * 2 for one in whole])
    rounds = [
        paired(ready.levels.get((key, shape, measure.phase), []), ready.levels.get((base, shape, measure.phase), []))
        for shape in values.index
    ]
    return estimate(rounds if all(rounds) else whole)


def _any(chosen: pd.DataFrame, flag: pd.Series, values: pd.DataFrame) -> pd.DataFrame:
    """Whether a flag is set in any row of a shape and series."""
    found = chosen.assign(flag=flag.astype(float)).pivot_table(index="shape", columns="series", values="flag", aggfunc="max")
    return found.reindex(index=values.index, columns=values.columns) > 0


def common_shapes(valid: pd.DataFrame) -> list[str]:
    """The shapes at which at least half of the series that may be compared anywhere may be compared."""
    counts = valid.loc[:, valid.any()]
    return [str(shape) for shape, held in zip(valid.index, counts.mean(axis=1)) if held >= 0.5]


def _used(both: pd.Series, clean: pd.Series, shapes: Sequence[str]) -> list[str]:
    """The shapes over which a ratio is shown: common ones if possible, and uncontended ones if there are any."""
    at_common = both.index.isin(shapes)
    for choice in (clean & at_common, clean, both & at_common, both):
        if choice.any():
            return [str(shape) for shape in both.index[choice]]
    return []


def _has(count: int, known: pd.Series, proven: pd.Series, clean: pd.Series) -> str:
    """How many of the common shapes a series has, and in what respect it lacks the others."""
    for deed, held in (("measured", known), ("certified", proven), ("undisturbed", clean)):
        if not held.all():
            return f"{deed} at {int(held.sum())} of {count} shapes"
    return f"contention was watched at fewer than {count} shapes"


def _hindrance(both: pd.DataFrame, clean: pd.DataFrame, blind: pd.DataFrame, proven: pd.DataFrame) -> str:
    """Why none of the candidates may be ranked."""
    if both.columns.empty:
        return "no method that is 1-Lipschitz gave numbers"
    if not both.any(axis=None):
        return "nothing comparable was measured"
    reasons = {
        "contention was not looked for": blind[both.columns].any(axis=None),
        "the machine was busy": not clean[both.columns].any(axis=None),
        "no method has a certificate": not proven[both.columns].any(axis=None),
    }
    return next((reason for reason, holds in reasons.items() if holds), "no shape is common to enough methods")
