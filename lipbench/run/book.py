"""What a worker knows of a run: what is asked of it, what is stored, and so what is left to do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipbench import errors
from lipbench.cases import Case, Limits
from lipbench.quantities import EXAMINED
from lipbench.store import claims, records
from lipbench.store.rounds import HARMLESS, Record, Round

TIME = "time"
MEASURED = (TIME, "memory", *EXAMINED)
"""What may be asked for; the time of all groups of phases together."""

Progress = Callable[[int, int, Case, str, int], None]
"""(things done, things to do in all, the case, what is done with it, failed cases so far)"""


@dataclass(frozen=True)
class Order:
    """What is asked of a run."""

    rounds: int
    limits: Limits
    measure: tuple[str, ...] = MEASURED
    """of `MEASURED`"""
    first: frozenset[Case] = frozenset()
    """cases whose rounds all come before those of any other"""
    retry_failed: bool = False
    deadline: float | None = None
    """`time.monotonic()` from which on nothing is begun, and at which what runs is cut short and forgotten"""
    devices: Collection[str] = ("cpu", "cuda")
    """on which something can be measured"""
    cores: int = 1
    """there, for examinations at once"""


class Book:
    """What is known of every planned case, and stored of it on disk."""

    def __init__(self, directory: Path, planned: Sequence[Case], order: Order) -> None:
        self.directory, self.order = directory, order
        self.records = {case: Record(case, order.rounds) for case in planned}
        self.problems: dict[Case, str] = {}
        """of cases that are left alone"""
        self._retried: dict[Case, Record] = {}
        """failed records that are to be gone on with, as they are stored until their turn comes"""
        self.lock = threading.RLock()
        """held by a thread that examines, while it looks into the book or writes"""
        self.is_cut_short = False
        """whether the deadline has ended a round or examination, which is forgotten"""
        for case in planned:
            self.read(case)
            if order.retry_failed and self.records[case].status != "ok":
                self._retried[case] = self.records[case]
                self.read(case)
        self._total = self.work_left()

    @contextlib.contextmanager
    def claimed(self, case: Case) -> Iterator[bool]:
        """Claim a case for the block, and read what is stored of it; False where another worker has claimed it."""
        with contextlib.ExitStack() as stack:
            try:
                is_own = stack.enter_context(claims.claimed(self.directory, case, self.limits().timeout_s))
            except OSError as error:
                raise errors.not_writable(self.directory, error.strerror or str(error)) from error
            if is_own:
                with self.lock:
                    self.read(case)
            yield is_own

    def others_are_here(self) -> bool:
        """Whether another worker measures on this machine; to be asked while no claim is held."""
        return any(owner.is_here for owner in claims.holders(self.directory))

    def read(self, case: Case) -> None:
        """Take over what is stored of a case."""
        with self._leaving_alone(case):
            record = records.stored(self.directory, case)
            if record is not None:
                kept = records.without(record, self._dropped(case))
                self.records[case] = replace(kept, rounds_wanted=max(self.order.rounds, len(kept.rounds)))

    def add(self, case: Case, one: Round, *, examination: bool = False) -> None:
        """Store one more round or examination of a case."""
        with self._leaving_alone(case):
            record, dropped = self.records[case], self._dropped(case)
            self.records[case] = records.add_round(self.directory, record, one, dropped, examination=examination)
            self._retried.pop(case, None)

    def _dropped(self, case: Case) -> list[Round]:
        return [one for one in self._retried[case].sittings if one.status != "ok"] if case in self._retried else []

    @contextlib.contextmanager
    def _leaving_alone(self, case: Case) -> Iterator[None]:
        try:
            yield
        except errors.NotOursError as error:
            self.problems[case] = str(error)
        except OSError as error:
            raise errors.not_writable(self.directory, error.strerror or str(error)) from error

    def wants(self, case: Case, number: int) -> bool:
        """Whether round `number` of a case, from 0, is still to be measured."""
        return self._rounds_left(case) > 0 and len(self.records[case].rounds) <= number

    def lacks(self, case: Case) -> tuple[str, ...]:
        """What is still to be examined of a case, its rounds apart."""
        wanted = [name for name in self.order.measure if name != TIME]
        if case in self.problems:
            return ()
        return self.records[case].lacks(wanted, untimed=TIME not in self.order.measure)

    def has_time(self) -> bool:
        """Whether something may still be begun."""
        return self.order.deadline is None or time.monotonic() < self.order.deadline

    def limits(self) -> Limits:
        """Of what is begun now: no longer than to the deadline."""
        limits, deadline = self.order.limits, self.order.deadline
        if deadline is None:
            return limits
        return replace(limits, timeout_s=max(0.0, min(limits.timeout_s, deadline - time.monotonic())))

    def forgets(self, one: Round, limits: Limits) -> bool:
        """Whether it was the deadline that ended a round, and not the time-out that was asked for."""
        late = one.status == "timeout" or any(part.status == "timeout" for part in one.parts.values())
        cut_short = late and limits.timeout_s < self.order.limits.timeout_s
        self.is_cut_short |= cut_short
        return cut_short

    def progress(self) -> tuple[int, int]:
        """Rounds and examinations: done, and in all."""
        left = self.work_left()
        self._total = max(self._total, left)
        return self._total - left, self._total

    def work_left(self) -> int:
        """Rounds of all cases, and cases to be examined."""
        later = not {*self.order.measure}.isdisjoint(EXAMINED)
        waiting = sum(bool(self.lacks(case)) or (later and not record.rounds) for case, record in self.records.items())
        return self.rounds_left() + waiting

    def rounds_left(self) -> int:
        """Rounds of all cases; of one that fails, its others are none."""
        return sum(map(self._rounds_left, self.records)) if TIME in self.order.measure else 0

    def _rounds_left(self, case: Case) -> int:
        record = self.records[case]
        return 0 if record.finished or case in self.problems else self.order.rounds - len(record.rounds)

    def failures(self) -> int:
        """How many cases have failed so far."""
        return sum(record.status not in HARMLESS for record in self.records.values())

    def read_again(self) -> None:
        """Take over what other workers have stored meanwhile of cases that were not done, or had failed."""
        for case, record in self.records.items():
            if self._rounds_left(case) or self.lacks(case) or record.status != "ok":
                self.read(case)

    def outcome(self) -> tuple[Record, ...]:
        """All records; a failed case whose turn did not come again is as it is stored."""
        waiting, self._retried = self._retried, {}
        for case in waiting:
            self.read(case)
        return tuple(record for case, record in self.records.items() if case not in self.problems)
