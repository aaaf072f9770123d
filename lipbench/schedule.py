"""The order in which the rounds of a run are measured: round 0 of all cases, then round 1 of all, and so on.

Rounds are interleaved so that a drift of the machine meets all cases alike.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lipbench import errors, isolate, records
from lipbench.cases import Case, Limits
from lipbench.records import Record, Round

Progress = Callable[[int, int, Case, int, int], None]
"""(rounds done, rounds in all, case that begins, its round, failed cases so far)"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    records: tuple[Record, ...]
    left: int
    """rounds that were not started because of the deadline"""
    problems: tuple[str, ...] = ()
    """cases that were left alone because something that must not be written over stands in their place, one line each"""


def run(
    directory: Path,
    planned: Sequence[Case],
    rounds: int,
    limits: Limits,
    *,
    retry_failed: bool = False,
    deadline: float | None = None,
    progress: Progress = lambda *_: None,
) -> Outcome:
    """Measure what is missing of the planned cases in a run directory, each round stored as soon as it is there.

    Finished records are neither measured nor written again, failed ones only with `retry_failed`, and then without their failed
    rounds; damaged ones are replaced. Each record is read anew before a round of it is begun, so that what another process has
    stored meanwhile is not measured again. No round is started when `time.monotonic()` has reached `deadline`.
    """
    book = _Book(directory, planned, rounds, retry_failed)
    left = 0
    total = book.rounds_left()
    for number, case in itertools.product(range(rounds), planned):
        if not book.wants(case, number):
            continue
        if deadline is not None and time.monotonic() >= deadline:
            left += 1
            continue
        book.read(case)
        if book.wants(case, number):
            progress(total - book.rounds_left(), total, case, number, book.failures())
            book.add(case, _next_round(case, limits, book.records[case], book.records))
    return Outcome(book.outcome(), left, tuple(book.problems.values()))


class _Book:
    """What is known of every planned case, and stored of it on disk."""

    def __init__(self, directory: Path, planned: Sequence[Case], rounds: int, retry_failed: bool) -> None:
        self.directory, self.rounds = directory, rounds
        self.records = {case: Record(case, rounds) for case in planned}
        self.problems: dict[Case, str] = {}
        """of cases that are left alone"""
        self._retried: dict[Case, Record] = {}
        """failed records that are to be gone on with, as they are stored until their turn comes"""
        for case in planned:
            self.read(case)
            if retry_failed and self.records[case].status != "ok":
                self._retried[case] = self.records[case]
                self.read(case)

    def read(self, case: Case) -> None:
        """Take over what is stored of a case."""
        with self._leaving_alone(case):
            record = records.stored(self.directory, case)
            if record is not None:
                kept = records.without(record.rounds, self._dropped(case))
                self.records[case] = Record(case, max(self.rounds, len(kept)), kept)

    def add(self, case: Case, one: Round) -> None:
        """Store one more round of a case."""
        with self._leaving_alone(case):
            self.records[case] = records.add_round(self.directory, self.records[case], one, self._dropped(case))
            self._retried.pop(case, None)

    def _dropped(self, case: Case) -> list[Round]:
        return [one for one in self._retried[case].rounds if one.status != "ok"] if case in self._retried else []

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
        return self._left(case) > 0 and len(self.records[case].rounds) <= number

    def rounds_left(self) -> int:
        """Of all cases; one that fails leaves out its other rounds."""
        return sum(map(self._left, self.records))

    def _left(self, case: Case) -> int:
        record = self.records[case]
        return 0 if record.finished or case in self.problems else self.rounds - len(record.rounds)

    def failures(self) -> int:
        """How many cases have failed so far."""
        return sum(record.status not in records.HARMLESS for record in self.records.values())

    def outcome(self) -> tuple[Record, ...]:
        """All records; a failed case whose turn did not come again stays as it is stored."""
        known = {**self.records, **self._retried}
        return tuple(record for case, record in known.items() if case not in self.problems)


def _next_round(case: Case, limits: Limits, record: Record, state: Mapping[Case, Record]) -> Round:
    too_large = (other for other, known in state.items() if known.status == "out_of_memory" and _is_larger(case, other))
    smaller = next(too_large, None)
    if smaller is not None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Round("skipped", f"out of memory at a smaller size: {smaller.id}", started=now)
    return isolate.run_round(case, limits, first=not any(one.memory for one in record.rounds))


def _is_larger(case: Case, other: Case) -> bool:
    """Whether a case is another one with nothing smaller and something larger."""
    sizes, other_sizes = _sizes(case), _sizes(other)
    alike = _without_sizes(case) == _without_sizes(other)
    return alike and sizes != other_sizes and all(one >= two for one, two in zip(sizes, other_sizes))


def _sizes(case: Case) -> tuple[int, ...]:
    spec = case.spec
    return spec.channels, spec.image_size, spec.kernel_size, case.batch_size


def _without_sizes(case: Case) -> tuple[object, ...]:
    spec = case.spec
    return type(spec), spec.method, spec.implementation, case.dtype, case.precision, case.device, case.compile
