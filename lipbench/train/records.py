"""Records of trainings on disk: `out/training/<case id>/record.json`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lipbench import errors
from lipbench.cases import KINDS
from lipbench.store import files, typed
from lipbench.train.task import TrainingCase, TrainingRecord

SCHEMA = 1
FOLDER, FILE = "training", "record.json"
_NETWORKS = ("network", "external network")
"""the kinds of a spec that can be trained"""


def folder_of(out: Path, case: TrainingCase) -> Path:
    """The folder of one training in the output directory `out`."""
    return out / FOLDER / case.id


def case_to_dict(case: TrainingCase) -> dict[str, Any]:
    """A case as JSON-ready values; `kind` is the word of its network's type."""
    kind = next(word for word in _NETWORKS if isinstance(case.network, KINDS[word]))
    return {"kind": kind, **asdict(replace(case, budget=replace(case.budget, amount=float(case.budget.amount))))}


def case_from_dict(value: Any) -> TrainingCase:
    """The case that `case_to_dict` wrote. Raises one of `files.DAMAGED` for anything else."""
    values = dict(value)
    kind = values.pop("kind")
    if kind not in _NETWORKS:
        raise ValueError(f"case.kind is the unknown {typed.short(kind)}")
    values["network"] = typed.from_json(KINDS[kind], values["network"], "case.network")
    found: TrainingCase = typed.from_json(TrainingCase, values, "case")
    return found


def to_dict(record: TrainingRecord) -> dict[str, Any]:
    """A record as JSON-ready values."""
    return {"schema": SCHEMA, **asdict(record), "case": case_to_dict(record.case)}


def from_dict(values: dict[str, Any]) -> TrainingRecord:
    """The record that `to_dict` wrote. Raises one of `files.DAMAGED` for anything else."""
    values = {name: value for name, value in values.items() if name != "schema"}
    found: TrainingRecord = typed.from_json(TrainingRecord, {**values, "case": case_from_dict(values["case"])})
    return found


def write(record: TrainingRecord, folder: Path) -> None:
    """Write the record of a training into its folder, atomically."""
    files.write_json(folder / FILE, to_dict(record))


def read(path: Path) -> TrainingRecord:
    """The record in a file, or in the folder of a training. Raises `LipbenchError` for a file that holds none."""
    path = path / FILE if path.is_dir() else path
    values = files.load_versioned(path, SCHEMA, errors.unreadable_training)
    try:
        return from_dict(values)
    except files.DAMAGED as error:
        raise errors.unreadable_training(path, typed.said(error)) from error


def read_all(out: Path) -> tuple[list[TrainingRecord], list[str]]:
    """All records below an output directory, by the name of their folder, and one line for each that cannot be read."""
    found, problems = [], []
    for path in sorted((out / FOLDER).glob(f"*/{FILE}")):
        try:
            found.append(read(path))
        except errors.LipbenchError as error:
            problems.append(str(error))
    return found, problems
