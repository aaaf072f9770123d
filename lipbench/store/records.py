"""Records and runs: what one case gave, kept on disk and read back.

A run is a directory: `run.json` and `records/<case id>.json`. Every file is written whole under another name and then renamed,
so that a killed run loses at most the round in flight. Several processes may write one run: what another has stored meanwhile
is read under a lock and added to, never written over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case
from lipbench.quantities import EXAMINED
from lipbench.store.files import DAMAGED, from_json, load_versioned, locked, write_json
from lipbench.store.old_warnings import with_kinds
from lipbench.store.rounds import SCHEMA, STATUSES, Record, Round, with_parts
from lipbench.store.run_plan import RunPlan, load_plan


@dataclass(frozen=True)
class Run:
    """A run as it was read: what was asked for, and the records there are."""

    path: Path
    plan: RunPlan
    records: tuple[Record, ...]
    unreadable: tuple[str, ...] = ()
    """what of it could not be read, one line each"""
    unfinished: tuple[str, ...] = ()
    """ids of planned cases that have not run yet; one whose record is there and cannot be read is not among them"""

    @property
    def begun(self) -> tuple[str, ...]:
        """Ids of cases that have rounds left to run."""
        return tuple(record.case.id for record in self.records if not record.finished)

    @property
    def unexamined(self) -> tuple[str, ...]:
        """Ids of cases whose rounds are done, and of which something else was asked for and has not run yet."""
        wanted = [name for name in self.plan.measure if name in EXAMINED]
        return tuple(record.case.id for record in self.records if record.finished and record.lacks(wanted))

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is missing, one line each: what could not be read, and what has not run yet."""
        found = list(self.unreadable)
        if self.unfinished:
            found.append(
                f"{len(self.unfinished)} of {len(self.plan.cases)} cases have not run yet: {', '.join(self.unfinished)}"
            )
        if self.begun:
            found.append(f"{_cases(len(self.begun))} rounds left to run: {', '.join(self.begun)}")
        if self.unexamined:
            what = f"{_cases(len(self.unexamined))} MACs or certificate left to find"
            found.append(f"{what}: {', '.join(self.unexamined)}")
        return tuple(found)


def _cases(count: int) -> str:
    return "1 case has" if count == 1 else f"{count} cases have"


# ---------------------------------------------------------------------------------------------------------------- writing


def save(directory: Path, record: Record) -> None:
    """Write one record into a run directory in place of what is known of its case."""
    write_json(record_path(directory, record.case), {**asdict(record), "schema": SCHEMA, "case": cases.to_dict(record.case)})


def add_round(
    directory: Path, record: Record, one: Round, dropped: Iterable[Round] = (), *, examination: bool = False
) -> Record:
    """Store one more round or examination of a record behind those that are stored already, by whomever; the record as it is
    then.

    `dropped` rounds and examinations are taken out. A damaged record is replaced; one that is not to be is refused with
    `NotOursError`.
    """
    dropped = tuple(dropped)
    with locked(directory):
        standing = without(stored(directory, record.case) or record, dropped)
        if examination and one.parts and {*one.parts} <= {*standing.parts}:
            return standing  # another process was quicker
        name = "examinations" if examination else "rounds"
        sittings = {"rounds": standing.rounds, "examinations": standing.examinations}
        merged = replace(record, **{**sittings, name: (*sittings[name], one)})  # type: ignore[arg-type]  # both are of rounds
        save(directory, merged)
    return merged


def without(record: Record, dropped: Iterable[Round]) -> Record:
    """A record less the rounds and examinations that say the same as a dropped one."""
    texts = {_text(one) for one in dropped}

    def kept(sittings: Iterable[Round]) -> tuple[Round, ...]:
        return tuple(one for one in sittings if _text(one) not in texts)

    return replace(record, rounds=kept(record.rounds), examinations=kept(record.examinations))


def _text(one: Round) -> str:
    # Equal as stored: a number that is NaN would not be equal to itself.
    return json.dumps(round_to_dict(one), sort_keys=True)


def record_path(directory: Path, case: Case) -> Path:
    """Where a run directory keeps a case."""
    return directory / "records" / f"{case.id}.json"


# ---------------------------------------------------------------------------------------------------------------- reading


def load_run(path: Path) -> Run:
    """Read a run directory, as far as it can be read: what is damaged, foreign or of a newer program is among the problems.

    Raises `LipbenchError` where there is neither a plan nor a record to be read.
    """
    if not path.is_dir():
        raise errors.unreadable_run(path, "no such directory")
    found, unread = _load_records(path / "records")
    unreadable = list(unread.values())
    try:
        plan = load_plan(path)
    except errors.LipbenchError as error:
        if not found:
            raise
        plan, unreadable = RunPlan(), [str(error), *unreadable]
    unfinished = tuple(case.id for case in plan.cases if case not in found and f"{case.id}.json" not in unread)
    in_order = tuple(found[case] for case in dict.fromkeys((*plan.cases, *found)) if case in found)
    return Run(path, plan, in_order, tuple(unreadable), unfinished)


def _load_records(directory: Path) -> tuple[dict[Case, Record], dict[str, str]]:
    """Records by their case, and, by its name, what is wrong with every other file. Hidden ones are of writes cut short."""
    found, unread = {}, {}
    for file in sorted(directory.glob("[!.]*")):
        try:
            record = load_record(file)
            found[record.case] = record
        except errors.LipbenchError as error:
            unread[file.name] = str(error)
    return found, unread


def stored(directory: Path, case: Case) -> Record | None:
    """The record of a case; None where there is none, or only a damaged one, which may be replaced.

    Raises `NotOursError` where something stands in its place that must not be: a record of a newer program, or what cannot be
    opened.
    """
    path = record_path(directory, case)
    if not os.path.lexists(path):
        return None
    try:
        return load_record(path)
    except errors.NotOursError:
        raise
    except errors.LipbenchError:
        return None


def load_record(path: Path) -> Record:
    """Read one record. Raises `LipbenchError` for a file that is half written, not a record or that of another case,
    `NotOursError` for one that is newer than this code or cannot be opened."""
    values = load_versioned(path, SCHEMA, errors.unreadable_record)
    try:
        case = cases.from_dict(values["case"])
        rounds, examinations = (
            tuple(round_from_dict(with_kinds(entry) if values["schema"] < 3 else entry) for entry in entries)
            for entries in (values["rounds"], values.get("examinations", ()))
        )
        if values["schema"] < 2:
            rounds = tuple(map(with_parts, rounds))
        record = Record(case, from_json(int, values["rounds_wanted"]), rounds, values["schema"], examinations)
    except DAMAGED as error:
        raise errors.unreadable_record(path, f"{type(error).__name__}: {error}") from error
    if path.name != f"{case.id}.json":
        raise errors.unreadable_record(path, f"the record of {case.id} under another name")
    return record


def round_to_dict(one: Round) -> dict[str, Any]:
    """A round as JSON-ready values."""
    return asdict(one)


def round_from_dict(values: Any) -> Round:
    """The round that `round_to_dict` wrote. Raises `ValueError` or `TypeError` on anything else."""
    one: Round = from_json(Round, values)
    for status in (one.status, *(part.status for part in one.parts.values())):
        if status not in STATUSES:
            raise ValueError(f"unknown status {status!r}")
    return one
