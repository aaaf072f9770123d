"""The answer of a run in a few lines, without figures: what `lipbench show` prints."""

from __future__ import annotations

import pandas as pd
from lipbench_reports.brief import brief
from lipbench_reports.tables import Tables

from lipbench import errors
from lipbench.analysis.origin import conditions, provenance
from lipbench.analysis.rows import COLUMNS, certificate_rows, measured_rows, round_rows
from lipbench.answer import Answer
from lipbench.prediction import table1
from lipbench.store.records import Run


def summary(run: Run) -> Answer:
    """The relative costs of the methods in a run, and what they say, in a few lines: the first part of its report.

    The frame has one row per series and measure, in `lipbench_reports.brief.COLUMNS`. Raises `LipbenchError` for a run without
    records.
    """
    if not run.records:
        raise errors.unreadable_run(run.path, "no case has run yet")
    nothing = pd.DataFrame()
    found = brief(
        Tables(
            title="", rows=measured_rows(run), columns=COLUMNS, conditions=conditions(), methods=table1.methods_table(),
            complexity=nothing, exponents=nothing, published=nothing, run=provenance(run, (), ()),
            certificates=certificate_rows(run), rounds=round_rows(run),
        )
    )  # fmt: skip
    return Answer(found.frame, found.readable, found.remarks, run.problems)
