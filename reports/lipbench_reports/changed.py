"""What changed since another run of the same cases: times, peaks and counts with their verdicts."""

from __future__ import annotations

import pandas as pd

from lipbench_reports.cells import BYTES, COUNTS, TIMES, Cell, Column, Table, estimated, heads, table, with_unit
from lipbench_reports.intervals import Estimate
from lipbench_reports.prepared import Prepared
from lipbench_reports.tables import CHANGES, as_text, with_columns

SAME = "SAME"
UNITS = {"time": TIMES, "memory": BYTES, "macs": COUNTS}
TITLES = {"memory": "peak memory", "macs": "MACs", "constant": "Lipschitz constant"}


def changes(ready: Prepared, *, every: bool) -> Table | None:
    """A row for each time, peak and count, or only for those that are not the same; None where there is none."""
    rows = with_columns(ready.tables.changes, CHANGES)
    names = ready.rows.drop_duplicates("case").set_index("case")[["series", "shape"]]
    rows = rows[rows["case"].isin(names.index) & (every | (rows["verdict"] != SAME))]
    if rows.empty:
        return None
    cases = [(str(names.at[case, "series"]), str(names.at[case, "shape"])) for case in rows["case"]]
    found = [row for _, row in rows.iterrows()]
    texts = {
        "Phase": [as_text(row["phase"]).replace("_", " ") for row in found],
        "Quantity": [TITLES.get(row["quantity"], as_text(row["quantity"])) for row in found],
        "Verdict": [as_text(row["verdict"]) for row in found],
        "Why": [as_text(row["reason"]) for row in found],
    }
    written = {title: (Column(title, numeric=False), [Cell(text, text) for text in column]) for title, column in texts.items()}
    values = [(Column(name.title()), [_value(row[name], row["quantity"]) for row in found]) for name in ("base", "head")]
    ratios = (Column("Head ÷ base"), [_ratio(row) for row in found])
    columns = [
        *heads(cases, ready.labels),
        written["Phase"],
        written["Quantity"],
        *values,
        ratios,
        written["Verdict"],
        written["Why"],
    ]
    return table("What changed" if not every else "Every comparison", columns)


def _value(value: object, quantity: str) -> Cell:
    if quantity in UNITS and isinstance(value, int | float):
        return Cell(with_unit(float(value), UNITS[quantity]), float(value)) if value == value else Cell()
    if quantity == "constant" and isinstance(value, float):
        return Cell(f"{value:.6f}", value)
    return Cell(as_text(value))


def _ratio(row: pd.Series) -> Cell:
    return estimated(Estimate(*(float(row[name]) for name in ("ratio", "low", "high"))))
