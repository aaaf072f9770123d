"""The executor interface, through which the schedule measures: survey the machine, measure a round, stop.

The process that plans and stores need not run on the machine that measures. So properties of the measuring machine, such as its
cores, come from the survey, not from the planning machine.
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
    """available to a process there: default threads of a case, and number of concurrent examinations"""
    fresh: str = "start"
    """how a fresh process is created: `processes.FORK` or `processes.START`"""
    lacking: tuple[tuple[str, str], ...] = ()
    """pairs of a method and an implementation that was asked for and that it does not have, while it has another one of them"""


@dataclass(frozen=True)
class Wanted:
    """What a run needs of the place where it is measured."""

    methods: Sequence[str]
    implementations: Sequence[str]
    device: str
    """'cpu', 'cuda', or 'auto': a GPU if there is one"""
    threads: int | None = None
    """of the cases; None: not known yet"""
    networks: Sequence[str] = ()
    """external ones"""


class Executor(Protocol):
    """Measures rounds. All methods may be called from several threads concurrently.

    `local.Local` measures each round in a fresh process of this machine, `inprocess.InProcess` in the process that calls it.
    """

    def survey(self, wanted: Wanted) -> Place:
        """Where rounds are measured, and which device 'auto' means there.

        Raises `LipbenchError` for an unknown method or implementation, for one that cannot run there, for an external layer or
        network that cannot be loaded or called, and for 'cuda' without a CUDA device.
        """
        ...

    def run_round(self, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
        """Measure parts of a case, of `quantities.PARTS`, within `limits.timeout_s` from their start.

        Parts that have `failed` before are left out of other parts: memory is measured without failed training. Failures
        become statuses of parts. Raises only `StoppedError`, after `stop`.
        """
        ...

    def stop(self) -> None:
        """End running processes, release all resources and measure nothing more; waiting calls raise `StoppedError`."""
        ...


class StoppedError(RuntimeError):
    """The executor was stopped, and the answer is no longer needed."""
