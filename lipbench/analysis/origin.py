"""Where a run comes from: its machine, command, limits and problems, and the conditions of its cases, for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lipbench_reports.tables import Condition

from lipbench import __version__
from lipbench.cases import CONDITIONS
from lipbench.store.records import Run
from lipbench.train.task import TrainingRecord


def conditions() -> list[Condition]:
    """The conditions that have a column, in the form that a report takes."""
    return [Condition(one.column, one.default, one.label, one.short, one.words) for one in CONDITIONS if one.column]


def machine(run: Run) -> dict[str, Any]:
    """The machine of the first round or examination that describes it."""
    described = (one.machine for record in run.records for one in record.sittings if one.machine)
    return next((asdict(machine) for machine in described), {})


def _trained_on(trainings: Sequence[TrainingRecord]) -> dict[str, Any]:
    """The machine of the first training that names it."""
    return next(({"cpu" if one.case.device == "cpu" else "gpu": one.machine} for one in trainings if one.machine), {})


def provenance(run: Run, trainings: Sequence[TrainingRecord], warnings: Sequence[str]) -> Mapping[str, object]:
    """Where, when and how a run and trainings came about, and what is missing: `Tables.run` of a report."""
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
        "machine": machine(run) or _trained_on(trainings),
        "limits": {**(asdict(plan.limits) if plan.limits else {}), "rounds": plan.rounds},
        "version": plan.version or next((one.version for one in trainings), "") or __version__,
        "problems": list(run.unreadable),
        "planned": len(plan.cases), "unfinished": list(run.unfinished), "incomplete": [*run.begun, *run.unexamined],
        "warnings": [*several, *begun, *warnings],
    }  # fmt: skip
