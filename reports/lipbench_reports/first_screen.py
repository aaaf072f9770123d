"""The first screen of a report: its answer in one sentence, and the costs that decide as a table with bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipbench_reports.cells import Bar, Cell, Table, carried
from lipbench_reports.costs import MEASURES, Costs
from lipbench_reports.intervals import Estimate
from lipbench_reports.prepared import Prepared
from lipbench_reports.verdict import listing, verdict

DEEDS = (
    ("training step", ("trains fastest", "train fastest")),
    ("inference", ("has the cheapest inference", "have the cheapest inference")),
    ("training memory", ("needs the least training memory", "need the least training memory")),
)
"""measure, and what its best method does, for one method and for several"""
MOST_NAMES = 3
"""number of methods that may share a first place by name"""
FIRST = ("Method", *(title.capitalize() for title, _ in DEEDS), "Lipschitz constant")
"""columns of the summary that are on the first screen; the others are in a table further down"""
NARROWEST = 2.0
"""least factor between the ends of the scale of the bars"""


def sentence(ready: Prepared, found: Costs) -> str:
    """The best methods by step time, inference time and training memory in one sentence, as far as intervals tell them apart.

    Where no measure has a first place, the first sentence of the verdict.
    """
    clauses = [clause for measure, deeds in DEEDS if (clause := _clause(found, measure, deeds))]
    if clauses and found.reference:
        first, *others = (f"{deed} ({ratio}\u00a0×" for deed, ratio in clauses)
        told = [f"{first} {found.reference.label})", *(f"{other})" for other in others)]
        return f"Of the ranked methods, {listing(told)}."
    return next(iter(verdict(ready, found)), "")


def _clause(found: Costs, measure: str, deeds: tuple[str, str]) -> tuple[str, str] | None:
    """ "CPL trains fastest" and its ratio to the reference; None where no method is told apart from the others."""
    ranking = found.ranking(measure)
    if len(ranking) < 2 or not all(entry.estimate.is_known for _, entry in ranking):
        return None
    best = ranking[0][1].estimate
    first = [one.label for one, entry in ranking if entry.estimate.overlaps(best)]
    if len(first) == len(ranking) or len(first) > MOST_NAMES:
        return None
    return f"{listing(first)} {deeds[len(first) > 1]}", carried(best)


def split(summary: Table, found: Costs) -> tuple[Table, Table | None]:
    """The columns of the summary for the first screen, with bars; and a table of the others, None without any."""
    first = [place for place, column in enumerate(summary.columns) if column.title in FIRST]
    rest = [0, *(place for place in range(len(summary.columns)) if place not in first)]
    scale = _Scale.of(found)
    shown = _columns(summary, first)
    measured = {measure.title.capitalize(): measure.title for measure in MEASURES}
    titles = [measured.get(column.title, "") for column in shown.columns]
    rows = [
        [_with_bar(cell, found.of(title, one).estimate, scale) if title else cell for title, cell in zip(titles, row)]
        for one, row in zip(found.series, shown.rows)
    ]
    more = replace(_columns(summary, rest), caption="Inference memory, and constants in training")
    return replace(shown, rows=rows), more if len(rest) > 1 else None


def _columns(table: Table, places: Sequence[int]) -> Table:
    return replace(
        table,
        columns=[table.columns[place] for place in places],
        rows=[[row[place] for place in places] for row in table.rows],
    )


def _with_bar(cell: Cell, estimate: Estimate, scale: _Scale) -> Cell:
    return replace(cell, bar=scale.bar(estimate)) if math.isfinite(estimate.value) and estimate.value > 0 else cell


@dataclass(frozen=True)
class _Scale:
    """A logarithmic scale for all bars of the table, so that they can be compared with each other."""

    low: float
    high: float

    @classmethod
    def of(cls, found: Costs) -> _Scale:
        values = [entry.ratio for measure, _ in DEEDS for entry in (found.comparisons[measure].entries or {}).values()]
        known = [1.0, *(value for value in values if math.isfinite(value) and value > 0)]
        return cls(min(known), max(*known, NARROWEST * min(known)))

    def bar(self, estimate: Estimate) -> Bar:
        """From the baseline to the value, with its interval, which is cut off at the ends of the scale."""
        low, high = (estimate.low, estimate.high) if estimate.is_known else (estimate.value, estimate.value)
        return Bar(*map(self._place, (1.0, estimate.value, low, high)))

    def _place(self, ratio: float) -> float:
        within = min(self.high, max(self.low, ratio))
        return math.log(within / self.low) / math.log(self.high / self.low)
