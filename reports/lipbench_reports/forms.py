"""Every 1-Lipschitz method in every form that was measured: implementations, compiled, recomputed. How the ranking changes.

A form is an implementation under conditions with a label. All forms of all methods are relative to one reference, Standard as
written, and ranked within their form alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipbench_reports.cells import Cell, Column, Table, estimated, table
from lipbench_reports.costs import MEASURES, Costs, Measure, Relative, costs, costs_within
from lipbench_reports.prepared import Prepared, Series
from lipbench_reports.verdict import listing

SHOWN = tuple(measure for measure in MEASURES if measure.title != "inference memory")
"""forms hardly differ in the memory of inference"""


@dataclass(frozen=True)
class Form:
    """All methods in one form, relative to the reference as written."""

    title: str
    """implementation and labels, such as "lean · recomputed" """
    found: Costs

    def entries(self, measure: Measure) -> dict[str, Relative]:
        """The entries of the methods by their names, without the reference."""
        base = self.found.reference
        return {one.method: self.found.of(measure.title, one) for one in self.found.series if one != base}

    def ranked(self, measure: Measure) -> dict[str, Relative]:
        """Those of the ranked methods."""
        return {one.method: entry for one, entry in self.found.ranking(measure.title)}

    def shapes(self, measure: Measure) -> list[str]:
        """The shapes that all ranked methods have."""
        return list(self.found.comparisons[measure.title].shapes)

    def place(self, measure: Measure, method: str) -> str:
        """Its rank among the ranked methods: "2", or "2–4" where intervals overlap; "" where it has none."""
        ranked = self.ranked(measure)
        if method not in ranked or len(ranked) < 2:
            return ""
        own = ranked[method].estimate
        others = [entry.estimate for name, entry in ranked.items() if name != method and not entry.estimate.overlaps(own)]
        first = 1 + sum(other.value < own.value for other in others)
        last = len(ranked) - sum(other.value > own.value for other in others)
        return str(first) if first == last else f"{first}–{last}"


def forms(ready: Prepared) -> list[Form]:
    """The forms of a run, the most usual first; [] if there are fewer than two, or no reference that makes no claim."""
    timed = [one for one in ready.series if not one.columns["interpreted"]]
    if len({_title(one) for one in timed}) < 2:
        return []
    usual = costs(ready)
    base = usual.reference
    if base is None or base.key not in usual.yardsticks:
        return []
    series: dict[str, list[Series]] = {}
    for one in timed:
        if one.method != base.method:
            series.setdefault(_title(one), []).append(one)
    found = []
    for title, own in series.items():
        rows = ready.rows[ready.rows["series"].isin([base.key, *(one.key for one in own)])]
        found.append(Form(title, costs_within(ready.narrowed(rows))))
    found = [form for form in found if any(entry.shapes for measure in SHOWN for entry in form.entries(measure).values())]
    return sorted(found, key=lambda form: form.title.count("·") + (form.title != "paper")) if len(found) > 1 else []


def _title(one: Series) -> str:
    return " · ".join([one.implementation, *one.marks])


def tables(ready: Prepared) -> list[Table]:
    """One table per measure: a row per method, a column per form, each with the place within the form."""
    found, titles, made = forms(ready), _titles(ready), []
    for measure in SHOWN:
        methods = list(dict.fromkeys(
            name for form in found for name in _by_ratio(form.entries(measure))
        ))  # fmt: skip
        if not methods:
            continue
        keys = _keys(ready, methods)
        head = (Column("Method", numeric=False), [Cell(titles[name], titles[name], series=keys[name]) for name in methods])
        columns = [(Column(form.title), [_cell(form, measure, name) for name in methods]) for form in found]
        base = found[0].found.reference
        assert base is not None
        caption = f"{measure.title.capitalize()} in each form, relative to {base.label}{'' if base.marks else ' as written'}"
        made.append(table(caption, [head, *columns]))
    return made


def _titles(ready: Prepared) -> dict[str, str]:
    """The titles of the methods in these rows."""
    known = dict(zip(ready.methods["method"].astype(str), ready.methods["title"].astype(str)))
    return {one.method: known.get(one.method, one.name) for one in ready.series}


def _by_ratio(entries: dict[str, Relative]) -> list[str]:
    """Methods with a number, cheapest first."""
    return sorted((name for name, entry in entries.items() if entry.shapes), key=lambda name: entries[name].ratio)


def _keys(ready: Prepared, methods: Sequence[str]) -> dict[str, str]:
    """The first series of each method, whose marker stands for it."""
    found: dict[str, str] = {}
    for one in ready.series:
        if one.method in methods:
            found.setdefault(one.method, one.key)
    return found


def _cell(form: Form, measure: Measure, method: str) -> Cell:
    entry = form.entries(measure).get(method)
    if entry is None or not entry.shapes:
        return Cell()
    cell, place = estimated(entry.estimate, entry.mark), form.place(measure, method)
    return replace(cell, note="; ".join(part for part in (cell.note, f"rank {place}" if place else "") if part))


def verdict(ready: Prepared) -> list[str]:
    """Sentences on how the ranking by a training step changes from the first form to each other one over the same shapes."""
    found, titles, step = forms(ready), _titles(ready), SHOWN[0]
    sentences = []
    for form in found[1:]:
        if form.shapes(step) != found[0].shapes(step):
            continue
        told, swapped = _changed(found[0].ranked(step), form.ranked(step))
        if not told:
            continue
        change = listing([f"{titles[one]} passes {titles[other]}" for one, other in swapped]) or "no method passes another"
        pairs = "the only pair" if told == 1 else f"{told} pairs"
        sentences.append(
            f"Ranked by training step as {form.title} in place of {found[0].title}: {change}, of {pairs} told apart in both."
        )
    return sentences


def _changed(before: dict[str, Relative], after: dict[str, Relative]) -> tuple[int, list[tuple[str, str]]]:
    """How many pairs of methods are told apart in both rankings, and the pairs whose first is the cheaper one only after."""
    told, swapped = 0, []
    for pair in itertools.combinations([name for name in before if name in after], 2):
        ratios = [[ranking[name].estimate for name in pair] for ranking in (before, after)]
        if any(one.overlaps(other) for one, other in ratios):
            continue
        told += 1
        first, second = (one.value < other.value for one, other in ratios)
        if first != second:
            swapped.append(pair if second else (pair[1], pair[0]))
    return told, swapped
