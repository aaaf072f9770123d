"""Cases that differ in one condition, as pairs, and what that condition changes, such as autocast or the exported form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lipbench_reports.cells import TIMES, Cell, Column, Table, heads, numbers, ratio, table
from lipbench_reports.costs import common_shapes
from lipbench_reports.measurements import doubt
from lipbench_reports.prepared import SIZES, Prepared

HALF = ("bf16", "fp16")
"""the precisions of autocast"""


@dataclass(frozen=True)
class Pair:
    """One case under the usual value of a condition ("as written"), and under another."""

    series: str
    """key of the usual series"""
    shape: str
    """the sizes and conditions that vary, without the one that distinguishes the pair"""
    written: pd.DataFrame
    """its rows by phase"""
    changed: pd.DataFrame

    def values(self, phase: str, column: str) -> tuple[float, float]:
        """The value as written and the changed one; NaN where it was not measured."""
        return _value(self.written, phase, column), _value(self.changed, phase, column)

    def change(self, phase: str, column: str) -> float:
        """Changed ÷ as written."""
        written, changed = self.values(phase, column)
        return changed / written if written > 0 else math.nan

    def mark(self, phase: str) -> str:
        """The mark of a doubt about either time."""
        entries = pd.concat([rows[rows.index == phase] for rows in (self.written, self.changed)])
        return next((mark for _, entry in entries.iterrows() if (mark := doubt(entry))), "")


def pairs(ready: Prepared, column: str, usual: object, other: object) -> list[Pair]:
    """The cases that gave numbers under both values of a condition, in the order of the rows."""
    if not (ready.rows[column] == other).any():
        return []
    conditions = [one for one in ready.tables.conditions if one.column != column]
    same = ["method", "implementation", "network", "interpreted", *(one.column for one in (*SIZES, *conditions))]
    rows = ready.rows[(ready.rows["phase"] != "") & ready.rows[column].isin([usual, other])]
    found = []
    for _, case in rows.groupby(same, sort=False, dropna=False):
        written, changed = (case[case[column] == value].drop_duplicates("phase").set_index("phase") for value in (usual, other))
        if len(written) and len(changed):
            told = [part for part in str(written["shape"].iloc[0]).split(", ") if part != str(usual)]
            found.append(Pair(str(written["series"].iloc[0]), ", ".join(told), written, changed))
    return found


def mean_changes(found: Sequence[Pair], phase: str, column: str, labels: Mapping[str, str]) -> list[tuple[float, str]]:
    """Geometric means of the change of a column over the shapes common to the series, smallest first, with their labels.

    Series that lack a common shape are left out.
    """
    known = {
        (one.shape, one.series): change for one in found if not one.mark(phase) and (change := one.change(phase, column)) > 0
    }
    if not known:
        return []
    changes = pd.Series(known).unstack()
    at_common = changes.loc[common_shapes(changes.notna())].dropna(axis="columns")
    return sorted((float(np.exp(np.log(column).mean())), labels[str(key)]) for key, column in at_common.items())


def half_precision(ready: Prepared) -> Table | None:
    """Times and peaks of cases measured in ieee and under autocast, one row per case and precision; None if there is none."""
    found = {precision: pairs(ready, "precision", "ieee", precision) for precision in HALF}
    every = [one for own in found.values() for one in own]
    words = [precision for precision, own in found.items() for _ in own]
    told = (Column("Precision", numeric=False), [Cell(word, word) for word in words])
    return (
        _changes("What autocast changes", ready, every, ("ieee", "autocast"), ("step", "inference"), [told]) if every else None
    )


def exports(ready: Prepared) -> Table | None:
    """Times, peaks and MACs of inference, as trained and in the exported form; None if no case was measured both ways."""
    found = pairs(ready, "exported", False, True)
    if not found:
        return None
    return _changes("Inference in an exported form", ready, found, ("as trained", "exported"), ("inference",), [])


_BYTES = {"step": "Training peak", "inference": "Inference peak"}


def _changes(
    caption: str,
    ready: Prepared,
    found: Sequence[Pair],
    ways: tuple[str, str],
    phases: Sequence[str],
    told: Sequence[tuple[Column, Sequence[Cell]]],
) -> Table:
    columns = [*heads([(one.series, one.shape) for one in found], ready.labels), *told]
    every = [value for one in found for phase in phases for value in one.values(phase, "median_s")]
    for phase in phases:
        marks = [one.mark(phase) for one in found]
        times = zip(*(one.values(phase, "median_s") for one in found))
        columns += [numbers(f"{phase.capitalize()}, {way}", own, TIMES, marks, every) for way, own in zip(ways, times)]
        changed = [ratio(one.change(phase, "median_s"), mark) for one, mark in zip(found, marks)]
        columns.append((Column(f"{phase.capitalize()}, ÷"), changed))
    for phase in phases:
        columns.append((Column(f"{_BYTES[phase]}, ÷"), [ratio(one.change(phase, "peak_memory_bytes")) for one in found]))
    if "step" not in phases:  # autocast changes no counts
        columns.append((Column("MACs, ÷"), [ratio(one.change("inference", "macs")) for one in found]))
    return table(caption, [one for one in columns if any(cell.sort is not None for cell in one[1])])


def _value(rows: pd.DataFrame, phase: str, column: str) -> float:
    values = rows.loc[rows.index == phase, column]
    return math.nan if values.empty else float(values.iloc[0])
