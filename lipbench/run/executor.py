"""What measures, as the schedule sees it: it says what is there, measures a round, and can be stopped.

The process that plans and stores need not run on the machine that measures. So nothing about the planning machine, such as its
cores, says anything of a case; the survey does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from lipbench.cases import Case, Limits
from lipbench.store.rounds import Round


@dataclass(frozen=True)
class Place:
    """Where a run is measured."""

    device: str
    """'cpu' or 'cuda'"""
    gpu: str | None = None
    """its name; None on a CPU"""
    cores: int = 1
    """that a process may use there: the threads of a case unless others are asked for, and examinations at once"""
    fresh: str = "start"
    """how a fresh process is made: `processes.FORK` or `processes.START`"""


class Executor(Protocol):
    """Measures rounds, each in fresh processes. All methods may be called from several threads at once.

    `local.Local` is the only one so far.
    """

    def survey(
        self,
        methods: Sequence[str],
        implementations: Sequence[str],
        device: str,
        threads: int | None = None,
        networks: Sequence[str] = (),
    ) -> Place:
        """Where rounds are measured, and which device 'auto' means there.

        `threads` are those that the cases have, if that is known; `networks` are external ones. Raises `LipbenchError` for a
        method or implementation that nobody has, one that cannot run there, an external layer or network that cannot be loaded
        or called, and for 'cuda' where there is none.
        """
        ...

    def run_round(self, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
        """Measure parts of a case, of `quantities.PARTS`, within `limits.timeout_s` after they have begun.

        What is known to have `failed` is left out where it would be part of something else: training, of the memory taken. What
        goes wrong there is the status of a part. Raises only `StoppedError`, after `stop`.
        """
        ...

    def stop(self) -> None:
        """End what runs, let go of everything and measure nothing more: who waits for a round gets `StoppedError`."""
        ...


class StoppedError(RuntimeError):
    """The executor was stopped: nobody waits for the answer any more."""
