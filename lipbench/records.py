"""Records and runs: what one case gave, kept on disk, read back, and laid out as a table.

A run is a directory: `run.json` and `records/<case id>.json`. Every file is written whole under another name and then renamed,
so that a killed run loses at most the round in flight.
"""

from __future__ import annotations

from dataclasses import dataclass

from lipbench.cases import Case
from lipbench.quantities import Machine, Macs, Memory, Timing

SCHEMA = 1

STATUSES = (
    "ok", "out_of_memory", "timeout", "crashed", "raised", "nan", "not_lipschitz", "unsupported", "skipped", "predicted",
)  # fmt: skip


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
    def finished(self) -> bool:
        """Nothing is left to run: every round was done, or one failed."""
        return self.status != "ok" or len(self.rounds) >= self.rounds_wanted
