"""The executor that measures on this machine, in fresh processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence
from types import TracebackType

from lipbench.cases import Case, Limits
from lipbench.quantities import GROUPS
from lipbench.run import isolate
from lipbench.run.executor import Place, StoppedError, Wanted
from lipbench.run.processes import Processes, usual_start
from lipbench.store.rounds import Round


class Local:
    """An `Executor` and context manager, which stops on exit.

    Each calling thread uses its own servers; idle servers are reused. No two timed rounds of a case come from the same server,
    since children of a server share its address layout.
    """

    def __init__(self, fresh: str | None = None) -> None:
        """`fresh` is `processes.FORK` or `processes.START`; None: the default of this system."""
        self._fresh = fresh or usual_start()
        self._lock = threading.Lock()
        self._all: list[Processes] = []
        self._idle: list[Processes] = []
        self._timed: dict[Processes, set[Case]] = {}
        """cases of which the current servers have timed a round"""
        self._stopped = False

    def __enter__(self) -> Local:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def survey(self, wanted: Wanted) -> Place:
        with self._processes() as processes:
            return isolate.survey(processes, wanted)

    def run_round(self, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
        with self._processes() as processes:
            if not {*GROUPS}.isdisjoint(parts):
                timed = self._timed[processes]
                if case in timed:
                    processes.renew()
                    timed.clear()
                timed.add(case)
            return isolate.run_round(processes, case, limits, parts, failed)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for processes in self._all:
                processes.stop()
            for processes in self._idle:
                processes.renew()

    @contextlib.contextmanager
    def _processes(self) -> Iterator[Processes]:
        """`Processes` that no other thread uses during the block."""
        with self._lock:
            if self._stopped:
                raise StoppedError
            if not self._idle:
                self._idle.append(Processes(self._fresh))
                self._all.append(self._idle[-1])
                self._timed[self._idle[-1]] = set()
            processes = self._idle.pop()
        try:
            yield processes
        finally:
            with self._lock:
                self._fresh = processes.fresh
                self._idle.append(processes)
                if self._stopped:
                    processes.renew()
