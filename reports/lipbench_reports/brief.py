"""The answer of a run in a few lines: the relative costs of the methods as a table, and the verdict in sentences."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lipbench_reports import compilation, forms, measurements, recomputation
from lipbench_reports.cells import MARKS, Cell, Table
from lipbench_reports.certificates import worst
from lipbench_reports.costs import MEASURES, Costs, costs
from lipbench_reports.prepared import Prepared, prepare
from lipbench_reports.tables import Tables
from lipbench_reports.verdict import compared, verdict

COLUMNS = (
    "method", "implementation", "series", "measure", "baseline", "ratio", "low", "high", "shapes", "ranked", "mark",
    "certificate", "certificate_kind",
)  # fmt: skip
"""series: the name of method and conditions; ratio: to the baseline, with its 95 % interval; shapes: how many the geometric
mean is over; mark: a key of `MARKS`, or ""; certificate: the largest Lipschitz constant of the series' cases, in evaluation"""
DETAILS = {"In training": None, "σ min": None, "Shapes": "1", "Failed cases": "0"}
"""columns that only the report shows, always (None) or where every row has this text"""


@dataclass(frozen=True)
class Brief:
    """What is printed of a run."""

    frame: pd.DataFrame
    """one row per series and measure, in `COLUMNS`"""
    readable: pd.DataFrame
    """one row per series; without rows where nothing was measured"""
    remarks: tuple[str, ...]
    """the verdict, then what the signs mean"""


def sentences(ready: Prepared, found: Costs) -> tuple[str, ...]:
    """What a run says in words, on the terminal and in the report."""
    return (*verdict(ready, found), *compilation.verdict(ready), *recomputation.verdict(ready), *forms.verdict(ready))


def brief(tables: Tables) -> Brief:
    """The answer of a run; incomplete runs raise no error."""
    ready = prepare(tables)
    found = costs(ready)
    summary = measurements.summary(ready, found)
    said = sentences(ready, found)
    if summary is None:
        return Brief(pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(), said)
    where = [f"{f'{measures}: ' if measures else ''}{shapes}" for measures, shapes in compared(found)]
    notes = [
        f"{summary.caption}{', with 95 % intervals over rounds' if _has_intervals(found) else ''}; {ready.common}.",
        *([f"Compared at {'; '.join(where)}."] if where and ready.has_several_shapes else []),
        *(f"{sign} {meaning}" for sign, meaning in summary.legend),
    ]
    return Brief(_frame(ready, found), _readable(summary), (*said, "", *notes))


def _has_intervals(found: Costs) -> bool:
    """Whether some time has an interval with a width."""
    entries = (found.of(measure.title, one).estimate for one in found.series for measure in MEASURES if measure.timed)
    return any(entry.is_known and entry.low < entry.high for entry in entries)


def _readable(table: Table) -> pd.DataFrame:
    frame = pd.DataFrame({
        column.title: [_text(row[place]) for row in table.rows] for place, column in enumerate(table.columns)
    })  # fmt: skip
    dull = [name for name, usual in DETAILS.items() if name in frame and (usual is None or (frame[name] == usual).all())]
    return frame.drop(columns=dull)


def _text(cell: Cell) -> str:
    sign = f" {MARKS[cell.mark][0]}" if cell.mark else ""
    return f"{cell.text}{f' ({cell.note})' if cell.note else ''}{sign}"


def _frame(ready: Prepared, found: Costs) -> pd.DataFrame:
    assert found.reference is not None
    constants = {
        str(key): worst(own["certificate"], own["certificate_kind"]) for key, own in ready.rows.groupby("series", sort=False)
    }
    rows = [
        (
            one.method, one.implementation, one.label, measure.title, found.reference.label, entry.ratio, entry.estimate.low,
            entry.estimate.high, entry.shapes, one.key in found.comparisons[measure.title].ranked, entry.mark,
            *constants[one.key],
        )
        for one in found.series for measure in MEASURES if (entry := found.of(measure.title, one)).shapes
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))
