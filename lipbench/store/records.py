"""Records and runs: the results of each case, written to disk and read back.

A run is a directory: `run.json` and `records/<case id>.json`. Every file is written under another name and then renamed, so
that a killed run loses at most the round in progress. Several processes may write one run: each reads the stored record under a
lock and adds to it, and never overwrites it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case
from lipbench.quantities import EXAMINED
from lipbench.store.files import DAMAGED, load_versioned, locked, write_json
from lipbench.store.old_warnings import with_kinds
from lipbench.store.rounds import SCHEMA, STATUSES, Record, Round, with_parts
from lipbench.store.run_plan import RunPlan, load_plan
from lipbench.store.typed import case_from_json, from_json, said, short


@dataclass(frozen=True)
class Run:
    """A run as read from disk: its plan and its records."""

    path: Path
    plan: RunPlan
    records: tuple[Record, ...]
    unreadable: tuple[str, ...] = ()
    """files that could not be read and why, one line each"""
    unfinished: tuple[str, ...] = ()
    """ids of planned cases that have not run yet, without those whose record exists but cannot be read"""

    @property
    def begun(self) -> tuple[str, ...]:
        """Ids of cases with rounds left to run."""
        return tuple(record.case.id for record in self.records if not record.finished)

    @property
    def unexamined(self) -> tuple[str, ...]:
        """Ids of cases whose rounds are done, but whose requested MACs or certificate are missing."""
        wanted = [name for name in self.plan.measure if name in EXAMINED]
        return tuple(record.case.id for record in self.records if record.finished and record.lacks(wanted))

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is missing, one line each: unreadable files, and cases that have not run or are incomplete."""
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
    """Write one record into a run directory, replacing the stored record of its case."""
    write_json(record_path(directory, record.case), {**asdict(record), "schema": SCHEMA, "case": cases.to_dict(record.case)})


def add_round(
    directory: Path, record: Record, one: Round, dropped: Iterable[Round] = (), *, examination: bool = False
) -> Record:
    """Append one round or examination to the stored record of a case, whichever process wrote it; returns the merged record.

    `dropped` rounds and examinations are removed. A damaged record is replaced. Raises `NotOursError` for a file that must not
    be replaced.
    """
    dropped = tuple(dropped)
    with locked(directory):
        standing = without(stored(directory, record.case) or record, dropped)
        if examination and one.parts and {*one.parts} <= {*standing.parts}:
            return standing  # another process stored the same parts first
        name = "examinations" if examination else "rounds"
        sittings = {"rounds": standing.rounds, "examinations": standing.examinations}
        merged = replace(record, **{**sittings, name: (*sittings[name], one)})  # type: ignore[arg-type]  # both are of rounds
        save(directory, merged)
    return merged


def without(record: Record, dropped: Iterable[Round]) -> Record:
    """A record without the rounds and examinations that equal a dropped one."""
    texts = {_text(one) for one in dropped}

    def kept(sittings: Iterable[Round]) -> tuple[Round, ...]:
        return tuple(one for one in sittings if _text(one) not in texts)

    return replace(record, rounds=kept(record.rounds), examinations=kept(record.examinations))


def _text(one: Round) -> str:
    # Compared as stored text, since NaN does not equal itself.
    return json.dumps(round_to_dict(one), sort_keys=True)


def record_path(directory: Path, case: Case) -> Path:
    """Path of a case's record in a run directory."""
    return directory / "records" / f"{case.id}.json"


# ---------------------------------------------------------------------------------------------------------------- reading


def load_run(path: Path) -> Run:
    """Read a run directory as far as possible. Damaged files, foreign files and those of a newer program become problems.

    Raises `LipbenchError` where neither a plan nor a record can be read.
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
    """Records by case, and the error of every other file by its name. Hidden files are skipped: they come from interrupted
    writes."""
    found, unread = {}, {}
    for file in sorted(directory.glob("[!.]*")):
        try:
            record = load_record(file)
            found[record.case] = record
        except errors.LipbenchError as error:
            unread[file.name] = str(error)
    return found, unread


def stored(directory: Path, case: Case) -> Record | None:
    """The stored record of a case; None where there is none, or a damaged one, which may be replaced.

    Raises `NotOursError` for a file that must not be replaced: a record of a newer program, or a file that cannot be opened.
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
    """Read one record. Raises `LipbenchError` for a file that is incomplete, not a record or the record of another case, and
    `NotOursError` for one that is newer than this code or cannot be opened."""
    values = load_versioned(path, SCHEMA, errors.unreadable_record)
    try:
        case = case_from_json(values["case"])
        rounds, examinations = (
            tuple(_sitting(entry, f"{name}[{number}]", values["schema"]) for number, entry in enumerate(_list(values, name)))
            for name in ("rounds", "examinations")
        )
        if values["schema"] < 2:
            rounds = tuple(map(with_parts, rounds))
        wanted = from_json(int, values["rounds_wanted"], "rounds_wanted")
        record = Record(case, wanted, rounds, values["schema"], examinations)
    except DAMAGED as error:
        raise errors.unreadable_record(path, said(error)) from error
    if path.name != f"{case.id}.json":
        raise errors.unreadable_record(path, f"it holds the record of {case.id}")
    return record


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    """A list of rounds; there were no examinations in schema 1."""
    found = values[name] if name == "rounds" else values.get(name, [])
    if not isinstance(found, list):
        raise TypeError(f"{name} is no list")
    return found


def _sitting(entry: Any, where: str, schema: int) -> Round:
    return round_from_dict(with_kinds(entry) if schema < 3 else entry, where)


def round_to_dict(one: Round) -> dict[str, Any]:
    """Convert a round to JSON-ready values."""
    return asdict(one)


def round_from_dict(values: Any, where: str = "") -> Round:
    """Convert the values of `round_to_dict` back to a round. Raises `ValueError` or `TypeError` for anything else."""
    one: Round = from_json(Round, values, where)
    for status in (one.status, *(part.status for part in one.parts.values())):
        if status not in STATUSES:
            raise ValueError(f"{where} has the unknown status {short(status)}")
    return one
