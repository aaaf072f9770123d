"""JSON files of pytest-benchmark, read as runs: the results of the benchmarks in `bench/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case
from lipbench.quantities import Caution, Contention, Machine, Macs, Memory, Timing
from lipbench.store.files import DAMAGED, from_json, load_json
from lipbench.store.records import Run, load_run
from lipbench.store.rounds import Record, Round, with_parts
from lipbench.store.run_plan import RunPlan

_SHARED = {"machine": Machine, "memory": Memory, "macs": Macs}
"""what each entry states about its whole case"""
ONE_PROCESS = Caution(
    "one_process", (), "one process: the variation between processes is unknown, and usually exceeds that within one"
)


def load(path: Path) -> Run:
    """Load a run directory or a pytest-benchmark JSON file as a run. Raises `LipbenchError` for anything else."""
    try:
        return from_benchmark_json(path) if path.is_file() else load_run(path)
    except OSError as error:  # a name that is too long, a directory without read permission
        raise errors.unreadable_run(path, error.strerror or str(error)) from error


def from_benchmark_json(path: Path) -> Run:
    """Read a pytest-benchmark file of `bench/` as a run. Entries without a case in their `extra_info` are listed as problems.

    Each entry is one phase of one case. All were measured in one process, so there is one round, and a warning says so.
    Contention is known where the benchmark monitored the machine long enough, and unknown elsewhere. Raises `LipbenchError` for
    a file that pytest-benchmark did not write, or that was saved without samples.
    """
    contents = load_json(path)
    if not isinstance(contents.get("benchmarks"), list):
        raise errors.foreign_json(path, "it has no list of benchmarks")
    phases: dict[Case, dict[str, Timing]] = {}
    shared: dict[Case, dict[str, Any]] = {}
    foreign = []
    for entry in contents["benchmarks"]:
        try:
            info = entry["extra_info"]
            if "case" not in info:
                foreign.append(str(entry["name"]))
                continue
            case, phase, timing = cases.from_dict(info["case"]), str(info["phase"]), _timing(path, entry)
            parts = {name: from_json(kind, info[name]) for name, kind in _SHARED.items() if info.get(name) is not None}
        except DAMAGED as error:
            raise errors.unreadable_file(path, f"{type(error).__name__}: {error}") from error
        phases.setdefault(case, {})[phase] = timing
        shared.setdefault(case, {}).update(parts)
    started = str(contents.get("datetime", ""))
    records = tuple(
        Record(case, 1, (with_parts(Round("ok", "", (ONE_PROCESS,), started, phases=found, **shared[case])),))
        for case, found in phases.items()
    )
    if foreign and not records:
        raise errors.foreign_json(path, f"none of its {len(foreign)} benchmarks has a case of lipbench")
    problems = (f"benchmarks without a lipbench case were left out: {', '.join(foreign)}",) if foreign else ()
    plan = RunPlan(started=started, command="pytest --benchmark-only", preset="pytest-benchmark", cases=tuple(phases))
    return Run(path, plan, records, problems)


def _timing(path: Path, entry: Mapping[str, Any]) -> Timing:
    samples = entry["stats"].get("data")
    if not samples:
        raise errors.no_samples(path)
    seen = entry["extra_info"].get("contention")
    contention = None if seen is None else from_json(Contention, seen)
    return Timing(tuple(map(float, samples)), calls_per_sample=int(entry["stats"].get("iterations", 1)), contention=contention)
