"""What was asked for of a run, and how it began: `run.json` as typed data, written and merged under a lock."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from lipbench import cases, errors
from lipbench.cases import Case, Limits
from lipbench.store.files import DAMAGED, from_json, load_versioned, locked, write_json
from lipbench.store.rounds import SCHEMA


@dataclass(frozen=True)
class RunPlan:
    """What `run.json` says of a run; what an older program did not write has its default, which stands for unknown."""

    version: str = ""
    """of the program that began it"""
    started: str = ""
    """ISO 8601, UTC"""
    command: str = ""
    """the shell command that began it"""
    out: str = ""
    """the run directory as it was named when the run began"""
    preset: str = ""
    rounds: int | None = None
    """fresh processes for each case; 0 where nothing was to be timed"""
    limits: Limits | None = None
    measure: tuple[str, ...] = ()
    """what the run was ever asked for"""
    fresh: str = ""
    """how its processes were made when it began"""
    gpu: str | None = None
    cases: tuple[Case, ...] = ()
    """the cases it is to have, in their order"""

    def resumed(self, asked: RunPlan) -> RunPlan:
        """This plan, gone on with as `asked`: with the cases of both, its own first, `REPLACED` as asked where that is known,
        and the rest as asked only where it is unknown here."""
        unknown = RunPlan()
        taken = {
            one.name: wanted for one in fields(RunPlan)
            if (wanted := getattr(asked, one.name)) != getattr(unknown, one.name)
            and (one.name in REPLACED or getattr(self, one.name) == getattr(unknown, one.name))
        }  # fmt: skip
        return replace(self, **{**taken, "cases": tuple(dict.fromkeys((*self.cases, *asked.cases)))})


REPLACED = ("rounds", "limits", "measure", "gpu")
"""of a plan, when its run is resumed"""


def save_plan(directory: Path, plan: RunPlan, *, new: bool = False) -> None:
    """Write `run.json`, making the directory where it is missing; a plan that is there is resumed, by `RunPlan.resumed`.

    Raises `LipbenchError` for a `run.json` that cannot be read, and for any at all if the run is to be a `new` one.
    """
    (directory / "records").mkdir(parents=True, exist_ok=True)
    file = _file(directory)
    with locked(directory):
        if file.exists() and new:
            raise errors.run_exists(directory)
        standing, values = (load_plan(directory), _values(file)) if file.exists() else (None, {})
        merged = standing.resumed(plan) if standing else plan
        written = {**values, "schema": SCHEMA, **asdict(merged), "cases": [cases.to_dict(case) for case in merged.cases]}
        if merged != standing or values["schema"] != SCHEMA:
            write_json(file, written)


def load_plan(directory: Path) -> RunPlan:
    """The plan of a run directory. Raises `LipbenchError` where there is none, or one that cannot be read."""
    file = _file(directory)
    if not file.exists():
        raise errors.unreadable_plan(file, "no such file")
    values = _values(file)
    kinds = {name: kind for name, kind in get_type_hints(RunPlan).items() if name in values and name != "cases"}
    try:
        known = {name: from_json(kind, values[name]) for name, kind in kinds.items()}
        return RunPlan(**known, cases=tuple(cases.from_dict(one) for one in values.get("cases", ())))
    except DAMAGED as error:
        raise errors.unreadable_plan(file, f"{type(error).__name__}: {error}") from error


def _file(directory: Path) -> Path:
    return directory / "run.json"


def _values(file: Path) -> dict[str, Any]:
    """With keys that are no fields of a plan, which stay in the file."""
    return load_versioned(file, SCHEMA, errors.unreadable_plan)
