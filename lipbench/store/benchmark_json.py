"""JSON files of pytest-benchmark, read as runs: the results of the benchmarks in `bench/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lipbench import errors
from lipbench.cases import Case
from lipbench.quantities import Caution, Machine, Macs, Memory, Timing
from lipbench.store.files import DAMAGED, load_json
from lipbench.store.records import Run, load_run
from lipbench.store.rounds import Record, Round, with_parts
from lipbench.store.run_plan import RunPlan
from lipbench.store.typed import case_from_json, from_json, said

_SHARED = {"machine": Machine, "memory": Memory, "macs": Macs}
"""what each entry states about its whole case"""
ONE_PROCESS = Caution(
    "one_process", (), "one process: the variation between processes is unknown, and usually exceeds that within one"
)


def load(path: Path) -> Run:
    """Load a run directory, a pytest-benchmark JSON file or a folder of these as a run.

    Raises `LipbenchError` for anything else.
    """
    try:
        if path.is_file():
            return from_benchmark_json(path)
        is_run = any((path / name).exists() for name in ("run.json", "records"))
        if not is_run and all((path / name / "run.json").exists() for name in ("base", "head")):
            raise errors.two_versions(path)
        files = [] if is_run else sorted(path.glob("*.json"))
        return from_benchmark_files(path, files) if files else load_run(path)
    except OSError as error:  # a name that is too long, a directory without read permission
        raise errors.unreadable_run(path, error.strerror or str(error)) from error


def from_benchmark_json(path: Path) -> Run:
    """Read a pytest-benchmark file of `bench/` as a run. Entries without a case in their `extra_info` are listed as problems.

    Each entry is one phase of one case. All were measured in one process, so there is one round, and a warning says so.
    Contention is known where the benchmark monitored the machine long enough, and unknown elsewhere. Raises `LipbenchError` for
    a file that pytest-benchmark did not write, or that was saved without samples.
    """
    contents = load_json(path, errors.foreign_json)
    entries = contents.get("benchmarks")
    if not isinstance(entries, list):
        raise errors.foreign_json(path, "it has no list of benchmarks")
    phases: dict[Case, dict[str, Timing]] = {}
    shared: dict[Case, dict[str, Any]] = {}
    foreign, damaged = [], []
    for number, entry in enumerate(entries):
        try:
            info = entry["extra_info"]
            if "case" not in info:
                foreign.append(from_json(str, entry["name"], "name"))
                continue
            case, phase, timing = case_from_json(info["case"]), from_json(str, info["phase"], "phase"), _timing(path, entry)
            parts = {name: from_json(kind, info[name], name) for name, kind in _SHARED.items() if info.get(name) is not None}
        except DAMAGED as error:
            damaged.append(_damaged(path, number, error))
            continue
        phases.setdefault(case, {})[phase] = timing
        shared.setdefault(case, {}).update(parts)
    if damaged and not phases:
        raise damaged[0]
    started = _started(contents.get("datetime"))
    records = tuple(
        Record(case, 1, (with_parts(Round("ok", "", (ONE_PROCESS,), started, phases=found, **shared[case])),))
        for case, found in phases.items()
    )
    if foreign and not records and not damaged:
        raise errors.foreign_json(path, f"none of its {len(foreign)} benchmarks has a case of lipbench")
    problems = [f"benchmarks without a lipbench case were left out: {', '.join(foreign)}"] if foreign else []
    plan = RunPlan(started=started, command="pytest --benchmark-only", preset="pytest-benchmark", cases=tuple(phases))
    return Run(path, plan, records, (*problems, *map(str, damaged)))


def from_benchmark_files(folder: Path, files: Sequence[Path]) -> Run:
    """Read several files of the same benchmarks as one run: each is a process, and so a round.

    Files that cannot be read become problems. Raises `LipbenchError` if none can.
    """
    runs, problems = [], []
    for file in files:
        try:
            runs.append(from_benchmark_json(file))
        except errors.LipbenchError as error:
            problems.append(error)
    if not runs:
        raise problems[0]
    rounds: dict[Case, list[Round]] = {}
    for record in (record for run in runs for record in run.records):
        rounds.setdefault(record.case, []).extend(record.rounds)
    records = tuple(
        Record(case, len(found), tuple(found if len(found) == 1 else (replace(one, warnings=()) for one in found)))
        for case, found in rounds.items()
    )
    told = dict.fromkeys(problem for run in runs for problem in run.problems)
    return Run(folder, replace(runs[0].plan, cases=tuple(rounds)), records, (*told, *map(str, problems)))


def _timing(path: Path, entry: Mapping[str, Any]) -> Timing:
    samples = entry["stats"].get("data")
    if not samples:
        raise errors.no_samples(path)
    values = {
        "samples_s": samples, "calls_per_sample": entry["stats"].get("iterations", 1),
        "contention": entry["extra_info"].get("contention"),
    }  # fmt: skip
    found: Timing = from_json(Timing, values)
    return found


def _damaged(path: Path, number: int, error: Exception) -> errors.LipbenchError:
    """The problem of one entry."""
    if isinstance(error, errors.LipbenchError):
        return error
    return errors.unreadable_file(path, f"benchmark {number}: {said(error)}")


def _started(value: Any) -> str:
    """The date of the file; "" where it has none, as in files of other programs."""
    try:
        found: str = from_json(str, value, "started")
        return found
    except (TypeError, ValueError):
        return ""
