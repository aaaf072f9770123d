"""Records and runs: what one case gave, kept on disk and read back.

A run is a directory: `run.json` and `records/<case id>.json`. Every file is written whole under another name and then renamed,
so that a killed run loses at most the round in flight.
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case
from lipbench.quantities import Machine, Macs, Memory, Timing

SCHEMA = 1

STATUSES = (
    "ok", "out_of_memory", "timeout", "crashed", "raised", "nan", "not_lipschitz", "unsupported", "skipped", "predicted",
)  # fmt: skip
HARMLESS = ("ok", "skipped", "unsupported", "predicted")
"""Statuses that do not make a run a failed one."""


@dataclass(frozen=True)
class Round:
    """One case in one fresh process."""

    status: str
    reason: str = ""
    warnings: tuple[str, ...] = ()
    started: str = ""
    """ISO 8601, UTC"""
    duration_s: float = 0.0
    machine: Machine | None = None
    phases: dict[str, Timing] | None = None
    memory: Memory | None = None
    """of the first round only: bytes do not vary"""
    macs: Macs | None = None
    """of the first round only"""


@dataclass(frozen=True)
class Record:
    """All rounds of one case."""

    case: Case
    rounds_wanted: int
    rounds: tuple[Round, ...] = ()
    schema: int = SCHEMA

    @property
    def status(self) -> str:
        """That of the first round that was not ok."""
        return next((r.status for r in self.rounds if r.status != "ok"), "ok")

    @property
    def reason(self) -> str:
        """Why the first round that was not ok was not."""
        return next((r.reason for r in self.rounds if r.status != "ok"), "")

    @property
    def finished(self) -> bool:
        """Nothing is left to run: every round was done, or one failed."""
        return self.status != "ok" or len(self.rounds) >= self.rounds_wanted


@dataclass(frozen=True)
class Run:
    """A run as it was read: what was asked for (`meta`, the contents of `run.json`), and the records there are."""

    path: Path
    meta: dict[str, Any]
    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()
    """what is missing of it, one line each"""
    planned: tuple[Case, ...] = field(default=())
    """the cases it is to have, in their order"""


# ---------------------------------------------------------------------------------------------------------------- writing


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under another name in the same directory, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(values, indent=1) + "\n")


def save_meta(directory: Path, meta: Mapping[str, Any]) -> None:
    """Write `run.json`, making the directory where it is missing."""
    (directory / "records").mkdir(parents=True, exist_ok=True)
    _write_json(directory / "run.json", {"schema": SCHEMA, **meta})


def save(directory: Path, record: Record) -> None:
    """Write one record into a run directory in place of what is known of its case."""
    _write_json(record_path(directory, record.case), {**asdict(record), "case": cases.to_dict(record.case)})


def record_path(directory: Path, case: Case) -> Path:
    """Where a run directory keeps a case."""
    return directory / "records" / f"{case.id}.json"


# ---------------------------------------------------------------------------------------------------------------- reading


def load(path: Path) -> Run:
    """A run directory, or a pytest-benchmark JSON file, as a run. Raises `LipbenchError` for anything else."""
    return from_benchmark_json(path) if path.is_file() else load_run(path)


def load_run(path: Path) -> Run:
    """Read a run directory. Raises `LipbenchError` where it is none, or a file in it cannot be read or is newer than this code.

    Files of a write that was cut short have another name, and are not looked at.
    """
    if not path.is_dir():
        raise errors.unreadable_run(path, "no such directory")
    meta = _load_meta(path)
    found = {record.case: record for record in map(load_record, sorted((path / "records").glob("[!.]*.json")))}
    try:
        planned = tuple(cases.from_dict(values) for values in meta.get("cases", ()))
    except (TypeError, KeyError, ValueError, AttributeError, errors.LipbenchError) as error:
        raise errors.unreadable_run(path / "run.json", f"cases: {error}") from error
    order = list(dict.fromkeys((*planned, *found)))
    return Run(path, meta, tuple(found[case] for case in order if case in found), _problems(planned, found), planned)


def _load_meta(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.exists():
        raise errors.unreadable_run(path, "no run.json in it")
    meta = load_json(file)
    _check_schema(file, meta)
    return meta


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `LipbenchError` where there is none or only half of it."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise errors.unreadable_file(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise errors.unreadable_file(path, str(error)) from error
    if not isinstance(values, dict):
        raise errors.unreadable_file(path, f"a JSON {type(values).__name__} where an object belongs")
    return values


def load_record(path: Path) -> Record:
    """Read one record. Raises `LipbenchError` for a file that is half written, not a record, or newer than this code."""
    values = load_json(path)
    _check_schema(path, values)
    try:
        case = cases.from_dict(values["case"])
        rounds = tuple(round_from_dict(entry) for entry in values["rounds"])
        record = Record(case, int(values["rounds_wanted"]), rounds, values["schema"])
    except (TypeError, KeyError, ValueError, AttributeError, errors.LipbenchError) as error:
        raise errors.unreadable_file(path, f"{type(error).__name__}: {error}") from error
    return record


def _check_schema(path: Path, values: Mapping[str, Any]) -> None:
    schema = values.get("schema")
    if not isinstance(schema, int):
        raise errors.unreadable_file(path, "no schema version in it")
    if schema > SCHEMA:
        raise errors.newer_schema(path, schema, SCHEMA)


def _problems(planned: tuple[Case, ...], found: Mapping[Case, Record]) -> tuple[str, ...]:
    missing = [case.id for case in planned if case not in found]
    begun = [record.case.id for record in found.values() if not record.finished]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(planned)} cases have not run: {', '.join(missing)}")
    if begun:
        problems.append(f"{len(begun)} cases have rounds left to run: {', '.join(begun)}")
    return tuple(problems)


def round_to_dict(one: Round) -> dict[str, Any]:
    """A round as JSON-ready values."""
    return asdict(one)


def round_from_dict(values: Any) -> Round:
    """The round that `round_to_dict` wrote. Raises `ValueError` or `TypeError` on anything else."""
    one: Round = from_json(Round, values)
    if one.status not in STATUSES:
        raise ValueError(f"unknown status {one.status!r}")
    return one


def from_json(kind: Any, value: Any) -> Any:
    """JSON values as the annotated type: dataclasses, tuples, dicts, optional and plain values.

    Unknown keys of an object are an error, as are values of another type, so that a damaged file is noticed where it is read.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else from_json(next(one for one in arguments if one is not types.NoneType), value)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} where an object belongs")
        hints = typing.get_type_hints(kind)
        known = {one.name for one in fields(kind)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"unknown key {unknown[0]!r}")
        return kind(**{name: from_json(hints[name], entry) for name, entry in value.items()})  # type: ignore[operator]  # a class
    if origin is tuple:
        return tuple(from_json(arguments[0], entry) for entry in _expect(list | tuple, value))
    if origin is dict:
        return {key: from_json(arguments[1], entry) for key, entry in _expect(dict, value).items()}
    return _expect(float | int if kind is float else kind, value)


def _expect(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} where {getattr(kind, '__name__', kind)} belongs")
    return value


# ------------------------------------------------------------------------------------------------- from other programs


def from_benchmark_json(path: Path) -> Run:
    """A pytest-benchmark file of `bench/` as a run; entries without a case in their `extra_info` are named as problems.

    Each entry is one phase of one case, all in one process, so there is one round. Raises `LipbenchError` for a file that is
    not of pytest-benchmark, or was saved without its samples.
    """
    contents = load_json(path)
    if not isinstance(contents.get("benchmarks"), list):
        raise errors.unreadable_file(path, "not a pytest-benchmark file")
    phases: dict[Case, dict[str, Timing]] = {}
    shared: dict[Case, dict[str, Any]] = {}
    foreign = []
    for entry in contents["benchmarks"]:
        try:
            info = entry["extra_info"]
            if "case" not in info:
                foreign.append(str(entry["name"]))
                continue
            case, phase, timing = cases.from_dict(info["case"]), str(info["phase"]), _benchmark_timing(path, entry)
            parts = {name: from_json(kind, info[name]) for name, kind in _SHARED.items() if info.get(name) is not None}
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise errors.unreadable_file(path, f"{type(error).__name__}: {error}") from error
        phases.setdefault(case, {})[phase] = timing
        shared.setdefault(case, {}).update(parts)
    started = str(contents.get("datetime", ""))
    records = tuple(
        Record(case, 1, (Round("ok", started=started, phases=found, **shared[case]),)) for case, found in phases.items()
    )
    problems = (f"not of lipbench, left out: {', '.join(foreign)}",) if foreign else ()
    meta = {"started": started, "command": "pytest --benchmark-only", "preset": "pytest-benchmark"}
    return Run(path, meta, records, problems, tuple(phases))


_SHARED = {"machine": Machine, "memory": Memory, "macs": Macs}


def _benchmark_timing(path: Path, entry: Mapping[str, Any]) -> Timing:
    samples = entry["stats"].get("data")
    if not samples:
        raise errors.no_samples(path)
    return Timing(tuple(map(float, samples)), calls_per_sample=int(entry["stats"].get("iterations", 1)))
