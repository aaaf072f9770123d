"""Failures of a GPU run, in at most ten lines: `python -m bench.gpu_summary FOLDER`; exit code 1 if there are any.

FOLDER comes from `bench/gpu.sh`: `stages.txt` with a line for each stage, the output of each stage, and the run directory.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lipbench import errors
from lipbench.store import records
from lipbench.store.records import Run
from lipbench.store.rounds import HARMLESS

MOST_LINES = 10
WIDTH = 240


def stages(folder: Path, begun: bool) -> Iterator[str]:
    """Stages that failed, or those that were not `begun`. Exit code 3 of a profile is left out: its records say why."""
    path = folder / "stages.txt"
    for line in path.read_text().splitlines() if path.exists() else []:
        late = "not begun" in line or line.startswith("report: exit code 124")  # the report can be made later from the archive
        if late != begun and not line.split(": exit code")[-1].startswith((" 0 ", " 3 ")):
            yield line


def kernels(folder: Path) -> Iterator[str]:
    """Lines of `bench.kernels` and of the comparisons that report an error."""
    signs = {"kernels": '"equal": false', "agreement": '"agrees": false', "memory": "too far"}
    for name, sign in signs.items():
        path = folder / f"{name}.txt"
        text = path.read_text(errors="replace") if path.exists() else ""
        bad = [line for line in text.splitlines() if sign in line]
        if bad:
            yield f"{name}: {len(bad)} lines, the first: {bad[0]}"


def cases(run: Run) -> Iterator[str]:
    """Failures of cases, grouped by status and reason, the most frequent first."""
    failed = [record for record in run.records if record.status not in HARMLESS]
    reasons = Counter((record.status, record.reason) for record in failed)
    for (status, reason), count in reasons.most_common():
        first = next(record.case.id for record in failed if (record.status, record.reason) == (status, reason))
        yield f"{count} × {status}: {reason} (as {first})"
    yield from run.unreadable


def notes(folder: Path, run: Run | None) -> Iterator[str]:
    """Work that was left for lack of time."""
    yield from stages(folder, begun=False)
    for count, what in ((len(run.begun), "rounds"), (len(run.unexamined), "MACs or certificates")) if run else ():
        if count:
            yield f"{count} cases have {what} left"


def summary(folder: Path) -> tuple[list[str], list[str]]:
    """All failures, the most important first, cut to `MOST_LINES` lines; and notes."""
    found, run = [*stages(folder, begun=True), *kernels(folder)], None
    if (folder / "run").is_dir():
        try:
            run = records.load_run(folder / "run")
            found += cases(run)
        except errors.LipbenchError as error:
            found.append(str(error))
    kept = [line[:WIDTH] for line in found[: MOST_LINES - 1]]
    if len(found) > len(kept):
        kept.append(f"and {len(found) - len(kept)} more: see the archive")
    return kept, list(notes(folder, run))


def main() -> None:
    found, noted = summary(Path(sys.argv[1]))
    print("\n".join([*(f"not done: {line}" for line in noted), *(found or ["nothing is broken"])]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
