"""What was found out about a case, as plain data: parts with a status each, rounds of them, and all rounds of a case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lipbench.cases import Case
from lipbench.quantities import GROUPS, Caution, Certificate, Machine, Macs, Memory, Timing

SCHEMA = 3
"""1: a round has one status; the first has memory, MACs and certificate. 2: a status for each part, examinations apart.
3: a warning has a kind and phases; before, it was its text alone."""

STATUSES = ("ok", "out_of_memory", "timeout", "crashed", "raised", "nan", "not_lipschitz", "unsupported", "skipped")
HARMLESS = ("ok", "skipped", "unsupported")
"""Statuses that do not make a run a failed one."""
BY_SEVERITY = ("ok", "skipped", "unsupported", "not_lipschitz", "nan", "timeout", "out_of_memory", "raised", "crashed")
"""Of several statuses, that of the whole is the last in this order."""


@dataclass(frozen=True)
class Part:
    """How one part of `quantities.PARTS` ended."""

    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Round:
    """What one fresh process, or several after one that died, found out about a case."""

    status: str
    """that of its worst part; of the case as a whole where nothing could be begun"""
    reason: str = ""
    warnings: tuple[Caution, ...] = ()
    started: str = ""
    """ISO 8601, UTC"""
    duration_s: float = 0.0
    machine: Machine | None = None
    phases: dict[str, Timing] | None = None
    memory: Memory | None = None
    """of the first round only: bytes do not vary"""
    macs: Macs | None = None
    """of an examination, or of the first round of a run of schema 1"""
    certificate: Certificate | None = None
    """likewise"""
    parts: dict[str, Part] = field(default_factory=dict)
    """how each part that was begun ended; empty where the case could not even be built"""
    tuned: dict[str, str] = field(default_factory=dict)
    """Triton kernel and sizes → the configuration that its tuning chose"""


def summed_up(one: Round) -> Round:
    """The round with the status of its worst part, and the reason of the first part that has it.

    Where other parts went well, the reason begins with the names of those that did not.
    """
    status = worst(part.status for part in one.parts.values())
    bad = [name for name, part in one.parts.items() if part.status == status]
    if status == "ok" or not bad:
        return replace(one, status="ok", reason="")
    reason = one.parts[bad[0]].reason
    is_prefixed = len(bad) < len(one.parts) and bad != ["certificate"]
    return replace(one, status=status, reason=f"{', '.join(bad)}: {reason}" if is_prefixed else reason)


def not_ok(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Names of the parts that ended otherwise than well."""
    return tuple(name for name, part in parts.items() if part.status != "ok")


def worst(statuses: Iterable[str]) -> str:
    """The most severe status; 'ok' of none."""
    return max(statuses, key=BY_SEVERITY.index, default="ok")


@dataclass(frozen=True)
class Record:
    """All rounds of one case, and what was examined of it apart from them."""

    case: Case
    rounds_wanted: int
    rounds: tuple[Round, ...] = ()
    schema: int = SCHEMA
    examinations: tuple[Round, ...] = ()
    """MACs and certificate: rounds in which nothing is timed"""

    @property
    def sittings(self) -> tuple[Round, ...]:
        """Rounds, then examinations."""
        return (*self.rounds, *self.examinations)

    @property
    def status(self) -> str:
        """The worst of all rounds and examinations."""
        return worst(one.status for one in self.sittings)

    @property
    def reason(self) -> str:
        """Why the first round or examination of that status has it."""
        status = self.status
        return next((one.reason for one in self.sittings if one.status == status), "")

    @property
    def parts(self) -> dict[str, Part]:
        """Part → its worst ending so far."""
        found: dict[str, Part] = {}
        for name, part in (pair for one in self.sittings for pair in one.parts.items()):
            if name not in found or worst((found[name].status, part.status)) != found[name].status:
                found[name] = part
        return found

    @property
    def is_broken(self) -> bool:
        """Whether the case as a whole failed: it could not be built, or was not tried."""
        return any(one.status != "ok" and not one.parts for one in self.rounds)

    @property
    def open_groups(self) -> tuple[str, ...]:
        """Groups of phases that have not failed; before the first round, all that there are."""
        if self.is_broken:
            return ()
        if not self.rounds:
            return tuple(GROUPS)
        return tuple(name for name, part in self.parts.items() if name in GROUPS and part.status == "ok")

    @property
    def finished(self) -> bool:
        """No round is left to run: every one was done, or nothing is left that could be timed."""
        return len(self.rounds) >= self.rounds_wanted or not self.open_groups

    def lacks(self, parts: Iterable[str], *, untimed: bool = False) -> tuple[str, ...]:
        """Those of these parts that were not begun yet.

        None where timing failed as a whole or, if not `untimed`, has not begun.
        """
        done = self.parts
        worth_it = self.open_groups if self.rounds else untimed
        return tuple(name for name in parts if name not in done) if worth_it else ()

    @property
    def memory(self) -> Memory | None:
        """Of the sitting that took it."""
        return next((one.memory for one in self.sittings if one.memory), None)

    @property
    def macs(self) -> Macs | None:
        """Of the sitting that counted them."""
        return next((one.macs for one in self.sittings if one.macs), None)

    @property
    def certificate(self) -> Certificate | None:
        """Of the sitting that found one."""
        return next((one.certificate for one in self.sittings if one.certificate), None)


def with_parts(one: Round) -> Round:
    """A round of schema 1, which had one status, with the parts that it has numbers of; none where it failed as a whole."""
    if one.status not in ("ok", "not_lipschitz"):
        return one
    found = {name: Part() for name, phases in GROUPS.items() if not {*phases}.isdisjoint(one.phases or ())}
    found |= {name: Part() for name in ("memory", "macs") if getattr(one, name)}
    if one.certificate:
        found["certificate"] = Part(one.status, one.reason)
    return replace(one, parts=found)
