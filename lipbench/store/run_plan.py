"""The plan of a run, `run.json`, as typed data: what was requested and how the run began. Written and merged under a lock."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from lipbench import cases, errors
from lipbench.cases import Case, Limits
from lipbench.store.files import DAMAGED, load_versioned, locked, write_json
from lipbench.store.rounds import SCHEMA
from lipbench.store.typed import case_from_json, from_json, said


@dataclass(frozen=True)
class RunPlan:
    """The contents of `run.json`. Fields that an older program did not write have their defaults, which mean unknown."""

    version: str = ""
    """of the program that started the run"""
    started: str = ""
    """ISO 8601, UTC"""
    command: str = ""
    """the shell command that started the run"""
    out: str = ""
    """the run directory as given when the run began"""
    preset: str = ""
    rounds: int | None = None
    """fresh processes per case; 0 if no timing was requested"""
    limits: Limits | None = None
    measure: tuple[str, ...] = ()
    """everything that was ever requested of the run"""
    fresh: str = ""
    """how processes were created when the run began"""
    gpu: str | None = None
    cases: tuple[Case, ...] = ()
    """the planned cases, in order"""

    def resumed(self, asked: RunPlan) -> RunPlan:
        """This plan, resumed as `asked`: with the cases of both, its own first. Fields in `REPLACED` are taken from `asked`
        where known there; other fields only where they are unknown here."""
        unknown = RunPlan()
        taken = {
            one.name: wanted for one in fields(RunPlan)
            if (wanted := getattr(asked, one.name)) != getattr(unknown, one.name)
            and (one.name in REPLACED or getattr(self, one.name) == getattr(unknown, one.name))
        }  # fmt: skip
        return replace(self, **{**taken, "cases": tuple(dict.fromkeys((*self.cases, *asked.cases)))})


REPLACED = ("rounds", "limits", "measure", "gpu")
"""fields of a plan that are replaced when its run is resumed"""


def save_plan(directory: Path, plan: RunPlan, *, new: bool = False) -> None:
    """Write `run.json`; create the directory if missing. An existing plan is merged by `RunPlan.resumed`.

    Raises `LipbenchError` for a `run.json` that cannot be read, and for any existing one if the run must be `new`.
    """
    (directory / "records").mkdir(parents=True, exist_ok=True)
    file = _file(directory)
    with locked(directory):
        if os.path.lexists(file) and new:
            raise errors.run_exists(directory)
        standing, values = (load_plan(directory), _values(file)) if os.path.lexists(file) else (None, {})
        merged = standing.resumed(plan) if standing else plan
        written = {**values, "schema": SCHEMA, **asdict(merged), "cases": [cases.to_dict(case) for case in merged.cases]}
        if merged != standing or values["schema"] != SCHEMA:
            write_json(file, written)


def load_plan(directory: Path) -> RunPlan:
    """Load the plan of a run directory. Raises `LipbenchError` where it is missing or cannot be read."""
    file = _file(directory)
    if not os.path.lexists(file):
        raise errors.unreadable_plan(file, "no such file")
    values = _values(file)
    kinds = {name: kind for name, kind in get_type_hints(RunPlan).items() if name in values and name != "cases"}
    try:
        known = {name: from_json(kind, values[name], name) for name, kind in kinds.items()}
        planned = values.get("cases", [])
        if not isinstance(planned, list):
            raise TypeError("cases is no list")
        return RunPlan(**known, cases=tuple(case_from_json(one, f"cases[{number}]") for number, one in enumerate(planned)))
    except DAMAGED as error:
        raise errors.unreadable_plan(file, said(error)) from error


def _file(directory: Path) -> Path:
    return directory / "run.json"


def _values(file: Path) -> dict[str, Any]:
    """All values of the file, including keys that are not fields of a plan: they stay in the file."""
    return load_versioned(file, SCHEMA, errors.unreadable_plan)
