"""The report of a run: its frames and estimates, rendered as one HTML document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import pandas as pd
from lipbench_reports import html
from lipbench_reports.tables import Condition, Tables, Trained

from lipbench import __version__, errors
from lipbench.analysis import accuracy, beside, changes
from lipbench.analysis.comparison import LEAST_PAIRS, THRESHOLD
from lipbench.analysis.exponents import exponents
from lipbench.analysis.rows import COLUMNS, certificate_rows, measured_rows, round_rows, warning_rows
from lipbench.cases import CONDITIONS
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
    estimated = beside.estimate(list(dict.fromkeys(rows["method"])), run.records)
    return html.render(
        Tables(
            title=_title(run, trainings),
            rows=rows,
            columns=COLUMNS,
            conditions=conditions(),
            methods=table1.methods_table(),
            complexity=table1.complexity_table(),
            exponents=exponents(run, rows),
            published=pd.read_csv(str(files("lipbench.published") / "epoch_budget_2h.csv")),
            run=_provenance(run, trainings, [*estimated.problems, *problems]),
            certificates=certificate_rows(run),
            warnings=warning_rows(run),
            rounds=round_rows(run),
            fitted=estimated.fitted,
            predicted=estimated.predicted,
            changes=both.found.frame if both else pd.DataFrame(),
            changed=changes.remarks(both) if both else (),
            trained=accuracy.trained(trainings) if trainings else Trained(),
        )
    )


def conditions() -> list[Condition]:
    """The conditions that have a column, in the form that a report takes."""
    return [Condition(one.column, one.default, one.label, one.short, one.words) for one in CONDITIONS if one.column]


def _title(run: Run, trainings: Sequence[TrainingRecord]) -> str:
    machine = _machine(run)
    where = machine.get("gpu") or machine.get("cpu") or next((one.machine for one in trainings if one.machine), "")
    return f"1-Lipschitz {'layers' if run.records else 'networks, trained'} on {where or 'an unknown machine'}"


def _machine(run: Run) -> dict[str, Any]:
    """The machine of the first round or examination that describes it."""
    described = (one.machine for record in run.records for one in record.sittings if one.machine)
    return next((asdict(machine) for machine in described), {})


def _trained_on(trainings: Sequence[TrainingRecord]) -> dict[str, Any]:
    """The machine of the first training that names it."""
    return next(({"cpu" if one.case.device == "cpu" else "gpu": one.machine} for one in trainings if one.machine), {})


def _provenance(run: Run, trainings: Sequence[TrainingRecord], warnings: Sequence[str]) -> Mapping[str, object]:
    machines = {(one.machine.hostname, one.machine.gpu or one.machine.cpu)
                for record in run.records for one in record.rounds if one.machine}  # fmt: skip
    several = [f"records of {len(machines)} machines are mixed: {', '.join(sorted(host for host, _ in machines))}; "
               "compare only cases of the same machine"] if len(machines) > 1 else []  # fmt: skip
    begun = [f"rounds are missing for {', '.join(run.begun)}; continue with --resume"] if run.begun else []
    begun += (
        [f"MACs or certificate are missing for {', '.join(run.unexamined)}; continue with --resume"] if run.unexamined else []
    )
    trained_on = dict.fromkeys(one.machine for one in trainings if one.machine)
    if len(trained_on) > 1:
        several.append(f"trainings on {len(trained_on)} machines are mixed: equal seconds are not equal work on them")
    plan = run.plan
    return {
        "command": plan.command, "out": plan.out,
        "started": plan.started or min((one.started for one in trainings if one.started), default=""),
        "machine": _machine(run) or _trained_on(trainings),
        "limits": {**(asdict(plan.limits) if plan.limits else {}), "rounds": plan.rounds},
        "version": plan.version or next((one.version for one in trainings), "") or __version__,
        "problems": list(run.unreadable),
        "planned": len(plan.cases), "unfinished": list(run.unfinished), "warnings": [*several, *begun, *warnings],
    }  # fmt: skip
