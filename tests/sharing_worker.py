"""A worker on a run directory that several share, with an executor that only notes what it is asked.

`DIRECTORY LOG ROUND_S`; it says that it is ready, and waits for a line on stdin.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from lipbench.cases import Case, Limits
from lipbench.cli.progress import summary
from lipbench.run import profiling
from lipbench.run.executor import Place, Wanted
from lipbench.run.plan import Request
from lipbench.run.profiling import LimitOptions, Options
from lipbench.store.rounds import Part, Round

REQUEST = Request(
    methods=("standard", "aol"), channels=(2, 3, 4, 5), image_sizes=(4, 5, 6, 7, 8), batch_sizes=(2,),
    conditions={"threads": (1,)},
)  # fmt: skip


class Notes:
    """Writes a line for each thing that it is asked to measure, when it begins it and when it has ended it."""

    def __init__(self, log: Path, seconds: float) -> None:
        self.log, self.seconds = log, seconds

    def survey(self, wanted: Wanted) -> Place:
        return Place("cpu", None, cores=2)

    def run_round(self, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
        what = "round" if "training" in parts else "examination"
        self._note("begins", what, case)
        time.sleep(self.seconds)
        self._note("ends", what, case)
        return Round("ok", parts=dict.fromkeys(parts, Part()))

    def _note(self, *what: object) -> None:
        *words, case = what
        line = " ".join((*map(str, words), case.id, str(os.getpid()))) + "\n"
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())  # appended whole, whoever else writes
        os.close(descriptor)

    def stop(self) -> None:
        pass


def main() -> None:
    directory, log, seconds = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    options = Options(REQUEST, "cpu", LimitOptions(rounds=2), out=Path(directory), resume=True)
    finished = profiling.profile(options, "lipbench profile", executor=Notes(Path(log), float(seconds)))
    print(summary(finished.outcome))


if __name__ == "__main__":
    main()
