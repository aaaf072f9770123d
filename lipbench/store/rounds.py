"""Results of a case as plain data: parts, each with a status; rounds, which consist of parts; records of all rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lipbench.cases import Case
from lipbench.quantities import ESTIMATED, GROUPS, Caution, Certificate, Estimate, Machine, Macs, Memory, Timing

SCHEMA = 5
"""1: one status per round; the first round has memory, MACs and certificate. 2: one status per part; separate examinations.
3: a warning has a kind and phases; before, it was a text only. 4: a certificate may have no bound, with a reason; a bound has
its uncertainty."""

STATUSES = ("ok", "out_of_memory", "timeout", "crashed", "raised", "nan", "not_lipschitz", "unsupported", "skipped")
HARMLESS = ("ok", "skipped", "unsupported")
"""Statuses that do not make a run fail."""
BY_SEVERITY = ("ok", "skipped", "unsupported", "not_lipschitz", "nan", "timeout", "out_of_memory", "raised", "crashed")
"""Statuses in ascending severity. A whole has the most severe status of its parts."""


@dataclass(frozen=True)
class Part:
    """Status of one part of `quantities.PARTS`."""

    status: str = "ok"
    reason: str = ""
    traceback: str = ""
    """of the exception that a layer raised; some kB at most"""


@dataclass(frozen=True)
class Round:
    """Results of one measurement of a case in a fresh process, or in several if one died."""

    status: str
    """status of the worst part, or of the whole case where no part could start"""
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
    """of an examination, or of the first round in schema 1"""
    certificate: Certificate | None = None
    """likewise"""
    parts: dict[str, Part] = field(default_factory=dict)
    """status of each part that was started; empty where the case could not be built"""
    tuned: dict[str, str] = field(default_factory=dict)
    """Triton kernel and sizes → the configuration chosen by tuning"""
    traceback: str = ""
    """of the exception that kept the case from being built; those of parts are with the parts"""
    estimate: Estimate | None = None
    """of an examination of an external layer"""


def is_quiet(one: Round) -> bool:
    """Whether no phase of a round was contended, as far as contention was watched."""
    return not any(timing.contended for timing in (one.phases or {}).values())


def summed_up(one: Round) -> Round:
    """The round with the status of its worst part, and the reason of the first part with that status.

    Where other parts have another status, the reason starts with the names of the worst parts.
    """
    status = worst(part.status for part in one.parts.values())
    bad = [name for name, part in one.parts.items() if part.status == status]
    if status == "ok" or not bad:
        return replace(one, status="ok", reason="")
    reason = one.parts[bad[0]].reason
    is_prefixed = len(bad) < len(one.parts) and bad != ["certificate"]
    return replace(one, status=status, reason=f"{', '.join(bad)}: {reason}" if is_prefixed else reason)


def with_notes(one: Round) -> Round:
    """The round with each failed part of `ESTIMATED` as a note of its estimate: such a failure is not one of the layer."""
    failed = {name: part for name, part in one.parts.items() if name in ESTIMATED and part.status != "ok"}
    if not failed:
        return one
    estimate = one.estimate or Estimate()
    notes = {name: part.reason or part.status for name, part in failed.items()}
    parts = {**one.parts, **dict.fromkeys(failed, Part())}
    return summed_up(replace(one, parts=parts, estimate=replace(estimate, notes={**estimate.notes, **notes})))


def not_ok(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Names of the parts whose status is not "ok"."""
    return tuple(name for name, part in parts.items() if part.status != "ok")


def worst(statuses: Iterable[str]) -> str:
    """The most severe status; 'ok' if there is none."""
    return max(statuses, key=BY_SEVERITY.index, default="ok")


@dataclass(frozen=True)
class Record:
    """All rounds and examinations of one case."""

    case: Case
    rounds_wanted: int
    rounds: tuple[Round, ...] = ()
    schema: int = SCHEMA
    examinations: tuple[Round, ...] = ()
    """rounds without timing: of memory, MACs or certificate"""

    @property
    def sittings(self) -> tuple[Round, ...]:
        """All rounds, then all examinations."""
        return (*self.rounds, *self.examinations)

    @property
    def status(self) -> str:
        """The worst status of all rounds and examinations."""
        return worst(one.status for one in self.sittings)

    @property
    def reason(self) -> str:
        """The reason of the first round or examination with that status."""
        status = self.status
        return next((one.reason for one in self.sittings if one.status == status), "")

    @property
    def tracebacks(self) -> tuple[str, ...]:
        """Tracebacks of all failures, each once."""
        found = (text for one in self.sittings for text in (one.traceback, *(part.traceback for part in one.parts.values())))
        return tuple(dict.fromkeys(filter(None, found)))

    @property
    def parts(self) -> dict[str, Part]:
        """Part → its worst status so far."""
        found: dict[str, Part] = {}
        for name, part in (pair for one in self.sittings for pair in one.parts.items()):
            if name not in found or worst((found[name].status, part.status)) != found[name].status:
                found[name] = part
        return found

    @property
    def is_broken(self) -> bool:
        """Whether the whole case failed: it could not be built, or was skipped."""
        return any(one.status != "ok" and not one.parts for one in self.rounds)

    @property
    def open_groups(self) -> tuple[str, ...]:
        """Groups of phases that have not failed; all groups before the first round."""
        if self.is_broken:
            return ()
        if not self.rounds:
            return tuple(GROUPS)
        return tuple(name for name, part in self.parts.items() if name in GROUPS and part.status == "ok")

    @property
    def disturbed(self) -> int:
        """Number of rounds with a contended phase."""
        return sum(not is_quiet(one) for one in self.rounds)

    @property
    def finished(self) -> bool:
        """Whether no round is left to run: all were measured, or every group of phases has failed."""
        return len(self.rounds) >= self.rounds_wanted or not self.open_groups

    def lacks(self, parts: Iterable[str], *, untimed: bool = False) -> tuple[str, ...]:
        """The given parts that have not been measured yet.

        Empty where all timing failed or, unless `untimed`, no round has been measured yet.
        """
        done = self.parts
        worth_it = self.open_groups if self.rounds else untimed
        return tuple(name for name in parts if name not in done) if worth_it else ()

    @property
    def memory(self) -> Memory | None:
        """From the first round or examination that measured it."""
        return next((one.memory for one in self.sittings if one.memory), None)

    @property
    def macs(self) -> Macs | None:
        """From the first round or examination that counted them."""
        return next((one.macs for one in self.sittings if one.macs), None)

    @property
    def estimate(self) -> Estimate | None:
        """All that the rounds and examinations counted; None where no program has tried."""
        found = [one.estimate for one in self.sittings if one.estimate]
        if not found:
            return None
        formulas = next((one.formulas for one in found if one.formulas), ())
        return Estimate(
            formulas,
            {phase: peak for one in found for phase, peak in one.peak_bytes.items()},
            {name: note for one in found for name, note in one.notes.items()},
        )

    @property
    def certificate(self) -> Certificate | None:
        """From the first round or examination that found one."""
        return next((one.certificate for one in self.sittings if one.certificate), None)


def with_parts(one: Round) -> Round:
    """A round of schema 1, which had one status, with a part for each result that it holds; without parts if it failed."""
    if one.status not in ("ok", "not_lipschitz"):
        return one
    found = {name: Part() for name, phases in GROUPS.items() if not {*phases}.isdisjoint(one.phases or ())}
    found |= {name: Part() for name in ("memory", "macs") if getattr(one, name)}
    if one.certificate:
        found["certificate"] = Part(one.status, one.reason)
    return replace(one, parts=found)
