"""A worker on a search that several share. Its trainings only sleep, and their result is a formula of the learning rate.

`OUT LOG SECONDS`; it says that it is ready, and waits for a line on stdin.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lipbench.cases import NetworkSpec
from lipbench.train import records, search
from lipbench.train.task import RADII, Budget, Evaluation, Part, TrainingCase, TrainingRecord

TEMPLATE = TrainingCase(NetworkSpec("aol", "XS", 8), "digits", Budget("steps", 8), 1.0, 0.0)
OPTIONS = search.Options(space=search.Space(), trials=8, final=Budget("steps", 16), seeds=2)
DIVERGES = 0.03
"""learning rate from which the training is not finite"""


def certified(learning_rate: float) -> float:
    """Certified robust accuracy after a training, in place of one."""
    return max(0.0, 1 - abs(math.log10(learning_rate / 0.004)) / 4)


def evaluated(case: TrainingCase, part: Part) -> TrainingRecord:
    """The record of a training that has ended."""
    if case.learning_rate >= DIVERGES:
        return TrainingRecord(case, "not finite", "the loss is nan in step 2", seconds=0.25)
    shares = {f"{radius:.6g}": certified(case.learning_rate) / (1 + place) for place, radius in enumerate(RADII)}
    worth = Evaluation(part, 10, min(1.0, shares[f"{RADII[0]:.6g}"] + 0.01 * case.seed), shares, 1.0, "ok", "", {}, 1.0)
    return TrainingRecord(case, "ok", started="2026-01-02T03:04:05+00:00", seconds=case.budget.amount / 8, evaluation=worth)


class Notes:
    """Trains by noting its begin and its end in a log."""

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self, case: TrainingCase, folder: Path, part: Part) -> TrainingRecord:
        self._note("begins", part, case)
        folder.mkdir(parents=True, exist_ok=True)
        records.write(TrainingRecord(case, "running"), folder)
        time.sleep(self.seconds)
        record = evaluated(case, part)
        records.write(record, folder)
        self._note("ends", part, case)
        return record

    def _note(self, what: str, part: Part, case: TrainingCase) -> None:
        line = f"{what} {part} {case.id} {os.getpid()}\n"
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())  # appended whole, whoever else writes
        os.close(descriptor)


def noted(log: Path, what: str) -> Sequence[tuple[str, str, str]]:
    """(part, case id, process) of each training that began or ended."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(part, case, process) for begun, part, case, process in map(str.split, lines) if begun == what]


def main() -> None:
    out, log, seconds = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    (found,) = search.search([TEMPLATE], OPTIONS, Path(out), Notes(Path(log), float(seconds)))
    assert found.best is not None
    print(len(found.results), found.best.index, len(found.finals))


if __name__ == "__main__":
    main()
