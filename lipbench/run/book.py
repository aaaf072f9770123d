"""A worker's view of a run: what is requested, what is stored, and what is left to do."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipbench_reports.intervals import Level, of_rounds

from lipbench import errors, external
from lipbench.cases import Case, ExternalNetworkSpec, Limits
from lipbench.quantities import EXAMINED
from lipbench.store import claims, records
from lipbench.store.files import write_errors
from lipbench.store.rounds import HARMLESS, Record, Round

TIME = "time"
MEASURED = (TIME, "memory", *EXAMINED)
"""What can be requested; `TIME` stands for all groups of phases."""

MOST_ROUNDS = 30
"""rounds of a case after which no more are added to narrow its interval"""

Progress = Callable[[int, int, Case, str, int], None]
"""(work done, total work, the case, what is being done with it, failed cases so far)"""


@dataclass(frozen=True)
class Order:
    """What is requested of a run."""

    rounds: int
    limits: Limits
    measure: tuple[str, ...] = MEASURED
    """of `MEASURED`"""
    first: frozenset[Case] = frozenset()
    """cases whose rounds all come before those of other cases"""
    retry_failed: bool = False
    deadline: float | None = None
    """`time.monotonic()` after which nothing is started, and at which running measurements are stopped and discarded"""
    devices: Collection[str] = ("cpu", "cuda")
    """on which cases can be measured"""
    cores: int = 1
    """available for concurrent examinations"""
    retries: int = 0
    """largest number of additional rounds of a case, one for each round in which a phase was contended"""
    retry_contended: bool = False
    """whether a case gets as many further retries for the rounds that are still contended"""
    target: float | None = None
    """half width of the interval over rounds, relative to the time, until which rounds are added; None: no rounds are added"""


def widest_reach(record: Record) -> float:
    """Half the width of the widest interval over the quiet rounds of all phases, relative to the time; infinite if unknown."""
    levels: dict[str, list[Level]] = {}
    for number, one in enumerate(record.rounds):
        for phase, timing in (one.phases or {}).items():
            level = Level(number, statistics.median(timing.samples_s), not timing.contended)
            levels.setdefault(phase, []).append(level)
    reaches = [of_rounds(found).reach for found in levels.values()]
    return max((reach if math.isfinite(reach) else math.inf for reach in reaches), default=math.inf)


class Book:
    """The records of all planned cases, in memory and on disk."""

    def __init__(self, directory: Path, planned: Sequence[Case], order: Order) -> None:
        self.directory, self.order = directory, order
        self.records = {case: Record(case, order.rounds) for case in planned}
        self.problems: dict[Case, str] = {}
        """of cases that are skipped because their file must not be overwritten"""
        self._tried: dict[Case, int] = {}
        """rounds beyond the requested ones that a case had when it was first read"""
        self._extra: dict[Case, int] = {}
        """rounds added to narrow the interval"""
        self._retried: dict[Case, Record] = {}
        """failed records to be retried, as stored, until a new round of their case is stored"""
        self.lock = threading.RLock()
        """held by an examining thread while it reads or writes the book"""
        self.is_cut_short = False
        """whether the deadline has ended a round or examination, which is discarded"""
        for case in planned:
            self.read(case)
            if order.retry_failed and self.records[case].status != "ok":
                self._retried[case] = self.records[case]
                self.read(case)
        self._total = self.work_left()

    @contextlib.contextmanager
    def claimed(self, case: Case) -> Iterator[bool]:
        """Claim a case for the block and read its stored record. Yields False where another worker has claimed it."""
        with contextlib.ExitStack() as stack:
            with write_errors(self.directory):
                is_own = stack.enter_context(claims.claimed(self.directory, case, self.limits().timeout_s))
            if is_own:
                with self.lock:
                    self.read(case)
            yield is_own

    def others_are_here(self) -> bool:
        """Whether another worker measures on this machine; call this while holding no claim."""
        return any(owner.is_here for owner in claims.holders(self.directory))

    def read(self, case: Case) -> None:
        """Update a case from its stored record."""
        with self._noting_problems(case):
            record = records.stored(self.directory, case)
            if record is not None:
                kept = records.without(record, self._dropped(case))
                self.records[case] = replace(kept, rounds_wanted=max(self._wanted(case, kept), len(kept.rounds)))

    def add(self, case: Case, one: Round, *, examination: bool = False) -> None:
        """Store one more round or examination of a case."""
        with self._noting_problems(case):
            record, dropped = self.records[case], self._dropped(case)
            self.records[case] = records.add_round(self.directory, record, one, dropped, examination=examination)
            self.records[case] = replace(self.records[case], rounds_wanted=self._wanted(case, self.records[case]))
            self._retried.pop(case, None)

    def _wanted(self, case: Case, record: Record) -> int:
        """Number of rounds that a case should have: one more for each contended round, up to the limits."""
        if record.rounds and case not in self._tried:
            self._tried[case] = len(record.rounds) - self.order.rounds if self.order.retry_contended else 0
        most = self.order.retries + max(0, self._tried.get(case, 0))
        return self.order.rounds + min(record.disturbed, most) + self._extra.get(case, 0)

    def widest(self) -> Case | None:
        """The case with the widest interval over rounds, if that exceeds the target and the case may have another round."""
        if self.order.target is None:
            return None
        reaches = {
            case: reach for case, record in self.records.items()
            if record.open_groups and record.rounds and len(record.rounds) < MOST_ROUNDS and case not in self.problems
            and (reach := widest_reach(record)) > self.order.target
        }  # fmt: skip
        return max(reaches, key=reaches.__getitem__, default=None)

    def add_wanted(self, case: Case) -> None:
        """Want one more round of a case."""
        self._extra[case] = self._extra.get(case, 0) + 1
        self.records[case] = replace(self.records[case], rounds_wanted=len(self.records[case].rounds) + 1)

    def _dropped(self, case: Case) -> list[Round]:
        return [one for one in self._retried[case].sittings if one.status != "ok"] if case in self._retried else []

    @contextlib.contextmanager
    def _noting_problems(self, case: Case) -> Iterator[None]:
        try:
            with write_errors(self.directory):
                yield
        except errors.NotOursError as error:
            self.problems[case] = str(error)

    def wants(self, case: Case, number: int) -> bool:
        """Whether round `number` of a case, counted from 0, must still be measured."""
        return self._rounds_left(case) > 0 and len(self.records[case].rounds) <= number

    def lacks(self, case: Case) -> tuple[str, ...]:
        """The untimed parts of a case that must still be measured."""
        wanted = [*(name for name in self.order.measure if name != TIME), *self._estimates(case)]
        if case in self.problems:
            return ()
        return self.records[case].lacks(wanted, untimed=TIME not in self.order.measure)

    def _estimates(self, case: Case) -> Iterator[str]:
        """What is counted of an external layer for the report: its formulas once, and the memory of each case."""
        method = case.spec.method
        if not external.is_external(method):
            return
        if "macs" in self.order.measure:
            own = [one for one in self.records.values() if one.case.spec.method == method and one.open_groups
                   and not isinstance(one.case.spec, ExternalNetworkSpec)]  # fmt: skip
            if own and own[0].case == case and not any("formulas" in one.parts for one in own):
                yield "formulas"
        if "memory" in self.order.measure and not case.compile:
            yield "prediction"

    def most_wanted(self) -> int:
        """The largest number of rounds that any case should have."""
        return max((record.rounds_wanted for record in self.records.values()), default=0)

    def has_time(self) -> bool:
        """Whether the deadline still allows a new measurement."""
        return self.order.deadline is None or time.monotonic() < self.order.deadline

    def limits(self) -> Limits:
        """Limits of a measurement that starts now: its time-out ends at the deadline at the latest."""
        limits, deadline = self.order.limits, self.order.deadline
        if deadline is None:
            return limits
        return replace(limits, timeout_s=max(0.0, min(limits.timeout_s, deadline - time.monotonic())))

    def forgets(self, one: Round, limits: Limits) -> bool:
        """Whether the deadline ended a round, rather than the requested time-out; such a round is discarded."""
        late = one.status == "timeout" or any(part.status == "timeout" for part in one.parts.values())
        cut_short = late and limits.timeout_s < self.order.limits.timeout_s
        self.is_cut_short |= cut_short
        return cut_short

    def progress(self) -> tuple[int, int]:
        """Numbers of rounds and examinations: done, and total."""
        left = self.work_left()
        self._total = max(self._total, left)
        return self._total - left, self._total

    def work_left(self) -> int:
        """Number of rounds left, plus the number of cases left to examine."""
        later = not {*self.order.measure}.isdisjoint(EXAMINED)
        waiting = sum(bool(self.lacks(case)) or (later and not record.rounds) for case, record in self.records.items())
        return self.rounds_left() + waiting

    def rounds_left(self) -> int:
        """Number of rounds left over all cases; a case that failed has none left."""
        return sum(map(self._rounds_left, self.records)) if TIME in self.order.measure else 0

    def _rounds_left(self, case: Case) -> int:
        record = self.records[case]
        return 0 if record.finished or case in self.problems else record.rounds_wanted - len(record.rounds)

    def failures(self) -> int:
        """Number of failed cases so far."""
        return sum(record.status not in HARMLESS for record in self.records.values())

    def read_again(self) -> None:
        """Update incomplete and failed cases with what other workers have stored."""
        for case, record in self.records.items():
            if self._rounds_left(case) or self.lacks(case) or record.status != "ok":
                self.read(case)

    def outcome(self) -> tuple[Record, ...]:
        """All records; a failed case that was not retried keeps its stored record."""
        waiting, self._retried = self._retried, {}
        for case in waiting:
            self.read(case)
        return tuple(record for case, record in self.records.items() if case not in self.problems)
