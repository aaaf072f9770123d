"""The report of a run: its frames and estimates, rendered as one HTML document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import pandas as pd
from lipbench_reports import html
from lipbench_reports.prepared import listed_cases
from lipbench_reports.tables import Tables, Trained

from lipbench import errors
from lipbench.analysis import accuracy, beside, changes, predicted
from lipbench.analysis.comparison import LEAST_PAIRS, THRESHOLD
from lipbench.analysis.exponents import exponents
from lipbench.analysis.origin import conditions, machine, provenance
from lipbench.analysis.rows import COLUMNS, certificate_rows, measured_rows, round_rows, warning_rows
from lipbench.prediction import table1
from lipbench.store.records import Run
from lipbench.train.task import TrainingRecord


def document(run: Run, trainings: Sequence[TrainingRecord] = (), problems: Sequence[str] = (), base: Run | None = None) -> str:
    """The report of a run and of trainings beside it as one HTML document; either may be missing.

    `problems` are those of reading the trainings. With a base, a section shows what changed since that run. Raises
    `LipbenchError` where there is neither run nor training, and where `api.compare` does.
    """
    if not run.records and not trainings:
        raise errors.unreadable_run(run.path, "no case has run yet")
    rows = measured_rows(run)
    both = changes.compared(base, run, THRESHOLD, THRESHOLD, any_machine=False, least_pairs=LEAST_PAIRS) if base else None
    tables = Tables(
        title=_title(run, trainings),
        rows=rows,
        columns=COLUMNS,
        conditions=conditions(),
        methods=table1.methods_table(),
        complexity=table1.complexity_table(),
        exponents=exponents(run, rows),
        published=pd.read_csv(str(files("lipbench.published") / "epoch_budget_2h.csv")),
        certificates=certificate_rows(run),
        warnings=warning_rows(run),
        rounds=round_rows(run),
        limits=predicted.limits(run),
        changes=both.found.frame if both else pd.DataFrame(),
        changed=changes.remarks(both) if both else (),
        trained=accuracy.trained(trainings) if trainings else Trained(),
    )
    shown = listed_cases(tables)  # counting takes longest, so that the memory of other cases is not predicted
    estimated = beside.estimate(list(dict.fromkeys(rows["method"])), run.records, shown)
    origin = provenance(run, trainings, [*estimated.problems, *problems])
    return html.render(replace(tables, run=origin, fitted=estimated.fitted, predicted=estimated.predicted))


def _title(run: Run, trainings: Sequence[TrainingRecord]) -> str:
    found = machine(run)
    where = found.get("gpu") or found.get("cpu") or next((one.machine for one in trainings if one.machine), "")
    return f"1-Lipschitz {'layers' if run.records else 'networks, trained'} on {where or 'an unknown machine'}"
