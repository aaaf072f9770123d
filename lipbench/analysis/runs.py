"""Many runs as one table: what lies below a directory, from when, of what, and what is wrong with it.

A run may come from a stranger: nothing that it names is imported, links are not followed, and a folder that cannot be read is a
row that says why.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from lipbench_reports import index

from lipbench import errors, external
from lipbench.analysis.statistics import levels, timings_by_phase
from lipbench.answer import Answer
from lipbench.cases import network_of
from lipbench.store import files, records
from lipbench.store.records import Run
from lipbench.store.rounds import BY_SEVERITY, HARMLESS, Record
from lipbench.store.run_plan import RunPlan
from lipbench.train import records as trainings
from lipbench.train.task import TrainingRecord

MARKS = ("run.json", "records", trainings.FOLDER)
"""a folder that holds one of these is a run"""
DEEPEST = 6
"""levels below the directory at which runs are looked for"""
REPORT = "report.html"
WORST_FIRST = (
    "contended", "interpreted", "no_certificate", "cannot_tell", "unsettled", "low_clock", "one_process", "inexact", "fallback",
    "state", "weights",
)  # fmt: skip
"""kinds of warnings, the worst first; the others follow in the order in which they are met"""
NEVER_QUIET = "contended"
"""the kind that counts only cases with a phase without a quiet round, since other rounds are left out of the statistics"""


def below(directory: Path) -> list[Path]:
    """The runs in a directory and its folders, by path; the directory itself may be one.

    Raises `LipbenchError` for what is no directory.
    """
    if not directory.is_dir():
        raise errors.no_directory(directory)
    return sorted(_below(directory, DEEPEST))


def _below(folder: Path, levels_left: int) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # a folder of somebody else
        return
    if any(entry.name in MARKS for entry in entries):
        yield folder
    elif levels_left:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _below(folder / entry.name, levels_left - 1)


def table(directory: Path, found: Sequence[Path]) -> pd.DataFrame:
    """One row per run, in `index.COLUMNS`, the latest first."""
    rows = [{"run": os.path.relpath(path, directory), **_row(path)} for path in found]
    frame = pd.DataFrame(rows, columns=list(index.COLUMNS))
    numbers = dict.fromkeys(("cases", "ok", "failed", "not_run", "trainings"), "Int64")
    return frame.astype(numbers).sort_values("started", ascending=False, kind="stable", ignore_index=True)


def _row(path: Path) -> dict[str, object]:
    trained, problems = trainings.read_all(path)
    try:
        run = records.load_run(path)
    except (errors.LipbenchError, OSError) as error:
        is_run = any(os.path.lexists(path / name) for name in MARKS[:2])
        run, problems = Run(path, RunPlan(), ()), [*problems, *([str(error)] if is_run else [])]
    specs = dict.fromkeys([case.spec for case in run.plan.cases] + [record.case.spec for record in run.records])
    networks = [one.case.network for one in trained]
    statuses = [record.status for record in run.records] + [one.status for one in trained if one.status != "running"]
    failed = Counter(status for status in statuses if status not in HARMLESS)
    machines = (one.machine for record in run.records for one in record.sittings if one.machine)
    return {
        "started": run.plan.started or min(_beginnings(run.records, trained), default=""),
        "version": run.plan.version or next((one.version for one in trained if one.version), ""), "commit": _commit(path),
        "machine": _listed([*(one.gpu or one.cpu for one in machines), *(one.machine for one in trained)]),
        "methods": _listed(external.shown(spec.method) for spec in (*specs, *networks)),
        "networks": _listed(map(network_of, (*specs, *networks))),
        "cases": len({*(case.id for case in run.plan.cases), *(record.case.id for record in run.records)}),
        "ok": sum(record.status in HARMLESS for record in run.records if record.sittings),
        "failed": sum(record.status not in HARMLESS for record in run.records), "not_run": len(run.unfinished),
        "trainings": len(trained),
        "failures": ", ".join(f"{failed[status]} {status}" for status in sorted(failed, key=_severity, reverse=True)),
        "warnings": "; ".join([*_warnings(run.records), *run.unreadable, *problems]),
        "report": REPORT if (path / REPORT).is_file() else "",
    }  # fmt: skip


def _severity(status: str) -> int:
    """The place in `BY_SEVERITY`; trainings have further statuses."""
    return BY_SEVERITY.index(status) if status in BY_SEVERITY else 0


def _beginnings(found: Sequence[Record], trained: Sequence[TrainingRecord]) -> Iterator[str]:
    yield from (one.started for record in found for one in record.sittings if one.started)
    yield from (one.started for one in trained if one.started)


def _commit(path: Path) -> str:
    """The commit of either of two versions (`run.worktree.same_base`), with "+" if files differed; "" for all other runs."""
    try:
        noted = files.load_json(path.parent / "against.json").get(path.name) if path.name in ("base", "head") else None
    except errors.LipbenchError:
        return ""
    return noted if isinstance(noted, str) and re.fullmatch(r"[0-9a-f]{40,64}\+?", noted) else ""


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(filter(None, dict.fromkeys(texts)))


def _warnings(found: Sequence[Record]) -> list[str]:
    """Kinds of warnings with the number of cases that have them, the worst first."""
    counts = Counter(kind for record in found for kind in _kinds(record))
    order = [*(kind for kind in WORST_FIRST if kind in counts), *(kind for kind in counts if kind not in WORST_FIRST)]
    return [f"{kind.replace('_', ' ')}: {counts[kind]} {'case' if counts[kind] == 1 else 'cases'}" for kind in order]


def _kinds(record: Record) -> Iterator[str]:
    kinds = dict.fromkeys(one.kind for sitting in record.sittings for one in sitting.warnings)
    never_quiet = any(not any(one.quiet for one in levels(timings)) for timings in timings_by_phase(record).values())
    yield from (kind for kind in kinds if kind != NEVER_QUIET)
    if never_quiet:
        yield NEVER_QUIET


# ----------------------------------------------------------------------------------------------------------------- answers


def answer(directory: Path) -> Answer:
    """All runs below a directory. Raises `LipbenchError` for no directory, and for one without runs."""
    frame = _found(directory)
    return Answer(frame, index.readable(frame), (index.sentence(frame),))


def document(directory: Path, output: Path) -> str:
    """The same as an HTML page that links to each run and its report, from the place of the `output` file."""
    frame = _found(directory)
    place = Path(os.path.relpath(directory, output.parent or "."))
    folders = [_address(place / run, is_folder=True) for run in frame["run"]]
    reports = [_address(place / run / report) if report else "" for run, report in zip(frame["run"], frame["report"])]
    return index.render(frame, folders, reports, errors.visible(str(directory)))


def _found(directory: Path) -> pd.DataFrame:
    found = below(directory)
    if not found:
        raise errors.no_runs(directory)
    return table(directory, found)


def _address(path: Path, *, is_folder: bool = False) -> str:
    """A relative address. Its colons are escaped, so that no folder's name is read as the scheme of an address."""
    return quote(os.fsencode(path)) + ("/" if is_folder else "")
