"""The order in which a run is measured: round 0 of all cases, then round 1 of all, and so on; last, of each, what is no time.

Rounds are interleaved so that a drift of the machine meets all cases alike. MACs and certificates come after all timing,
several at once, since they need the machine's cores and not its quiet.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from lipbench import errors
from lipbench.cases import Case, Limits, needs_triton
from lipbench.cores import usable_cores
from lipbench.quantities import EXAMINED, GROUPS
from lipbench.run.isolate import Processes
from lipbench.store import records
from lipbench.store.rounds import HARMLESS, Part, Record, Round, summed_up

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
    """on which something can be measured here"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    records: tuple[Record, ...]
    left: int
    """rounds and examinations that were not begun, or not brought to their end, because of the deadline"""
    elsewhere: int = 0
    """examinations that need a GPU, which is not here"""
    problems: tuple[str, ...] = ()
    """cases that were left alone because something that must not be written over stands in their place, one line each"""


def run(
    directory: Path, planned: Sequence[Case], order: Order, processes: Processes, progress: Progress = lambda *_: None
) -> Outcome:
    """Measure what is missing of the planned cases in a run directory, each round stored as soon as it is there.

    Finished records are neither measured nor written again, failed parts only with `retry_failed`, and then without the failed
    rounds; damaged records are replaced. Each record is read anew before a round of it is begun, so that what another process
    has stored meanwhile is not measured again.
    """
    book = _Book(directory, planned, order)
    left = 0
    if TIME in order.measure:
        for cases in ([case for case in planned if (case in order.first) == wanted] for wanted in (True, False)):
            left += _rounds(book, cases, processes, progress)
    late, elsewhere = _examinations(book, planned, processes.fresh, progress)
    return Outcome(book.outcome(), left + late, elsewhere, tuple(book.problems.values()))


def _rounds(book: _Book, cases: Sequence[Case], processes: Processes, progress: Progress) -> int:
    """Measure the rounds that are missing of some cases, interleaved; returns how many were left at the deadline."""
    left = 0
    for number in range(book.order.rounds):
        measured = False
        for case in cases:
            if not book.wants(case, number):
                continue
            if not book.has_time():
                left += 1
                continue
            book.read(case)
            if not book.wants(case, number):
                continue
            progress(*book.progress(), case, f"round {number + 1}", book.failures())
            one = _next_round(case, book, processes)
            measured = True
            if one is None:
                left += 1
            else:
                book.add(case, one)
        if measured:
            processes.renew()  # so that no two rounds of a case are forked from the same server
    return left


class _Book:
    """What is known of every planned case, and stored of it on disk."""

    def __init__(self, directory: Path, planned: Sequence[Case], order: Order) -> None:
        self.directory, self.order = directory, order
        self.records = {case: Record(case, order.rounds) for case in planned}
        self.problems: dict[Case, str] = {}
        """of cases that are left alone"""
        self._retried: dict[Case, Record] = {}
        """failed records that are to be gone on with, as they are stored until their turn comes"""
        self._reading = threading.Lock()
        for case in planned:
            self.read(case)
            if order.retry_failed and self.records[case].status != "ok":
                self._retried[case] = self.records[case]
                self.read(case)
        self._total = self.work_left()

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

    def lacks_now(self, case: Case) -> tuple[str, ...]:
        """The same by what is stored now; for a thread that is about to examine the case."""
        with self._reading:
            self.read(case)
            return self.lacks(case)

    def has_time(self) -> bool:
        """Whether something may still be begun."""
        return self.order.deadline is None or time.monotonic() < self.order.deadline

    def limits(self) -> Limits:
        """Of what is begun now: no longer than to the deadline."""
        limits, deadline = self.order.limits, self.order.deadline
        if deadline is None:
            return limits
        return replace(limits, timeout_s=max(0.0, min(limits.timeout_s, deadline - time.monotonic())))

    def is_cut_short(self, one: Round, limits: Limits) -> bool:
        """Whether it was the deadline that ended a round, and not the time-out that was asked for."""
        late = one.status == "timeout" or any(part.status == "timeout" for part in one.parts.values())
        return late and limits.timeout_s < self.order.limits.timeout_s

    def progress(self) -> tuple[int, int]:
        """Rounds and examinations: done, and in all."""
        left = self.work_left()
        self._total = max(self._total, left)
        return self._total - left, self._total

    def work_left(self) -> int:
        """Rounds of all cases, of which one that fails leaves out its others, and cases to be examined."""
        rounds = sum(map(self._rounds_left, self.records)) if TIME in self.order.measure else 0
        later = not {*self.order.measure}.isdisjoint(EXAMINED)
        waiting = sum(bool(self.lacks(case)) or (later and not record.rounds) for case, record in self.records.items())
        return rounds + waiting

    def _rounds_left(self, case: Case) -> int:
        record = self.records[case]
        return 0 if record.finished or case in self.problems else self.order.rounds - len(record.rounds)

    def failures(self) -> int:
        """How many cases have failed so far."""
        return sum(record.status not in HARMLESS for record in self.records.values())

    def outcome(self) -> tuple[Record, ...]:
        """All records; a failed case whose turn did not come again stays as it is stored."""
        known = {**self.records, **self._retried}
        return tuple(record for case, record in known.items() if case not in self.problems)


def _next_round(case: Case, book: _Book, processes: Processes) -> Round | None:
    """One more round of what has not failed of a case; None if the deadline ended it."""
    record = book.records[case]
    too_large = _too_large(case, book.records)
    groups = [name for name in record.open_groups if name not in too_large]
    if not groups:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Round("skipped", next(iter(too_large.values())).reason, started=now)
    memory = ["memory"] if "memory" in book.order.measure and "memory" not in record.parts else []
    limits = book.limits()
    one = processes.run_round(case, limits, (*groups, *memory), [name for name in GROUPS if name not in groups])
    if book.is_cut_short(one, limits):
        return None
    if not one.parts:
        return one
    skipped = {name: part for name, part in too_large.items() if name in record.open_groups}
    return summed_up(replace(one, parts={**one.parts, **skipped}))


def _too_large(case: Case, known: Mapping[Case, Record]) -> dict[str, Part]:
    """Groups of phases that ran out of memory at a smaller size, and so are not tried."""
    found: dict[str, Part] = {}
    for other, record in known.items():
        if record.status == "ok" or not _is_larger(case, other):
            continue
        whole = record.is_broken and any(one.status == "out_of_memory" for one in record.rounds)
        full = [name for name in GROUPS if whole or record.parts.get(name, Part()).status == "out_of_memory"]
        reason = f"out of memory at a smaller size: {other.id}"
        found = dict.fromkeys(full, Part("skipped", reason)) | found
    return found


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


# ------------------------------------------------------------------------------------------------------------ examinations


@dataclass(frozen=True)
class _Job:
    """Parts of a case that no clock takes part in, and the case as it is built for them."""

    case: Case
    place: Case
    parts: tuple[str, ...]


def _jobs(case: Case, parts: Sequence[str]) -> list[_Job]:
    """Memory and, on a GPU, MACs where the case is timed; on a CPU, MACs and certificate by one thread each.

    Weights are drawn on the CPU, so that a certificate found there is that of the same weights; only what a Triton kernel
    computes has to be certified where it runs.
    """
    aside = replace(case, device="cpu", threads=1, compile=False)
    on_cpu = case.device == "cpu"
    places = {"memory": case, "macs": aside if on_cpu else replace(case, compile=False)}
    places["certificate"] = replace(case, compile=False) if needs_triton(case.spec.implementation) and not on_cpu else aside
    found: dict[Case, list[str]] = {}
    for part in parts:
        found.setdefault(places[part], []).append(part)
    return [_Job(case, place, tuple(own)) for place, own in found.items()]


def _examinations(book: _Book, planned: Sequence[Case], fresh: str, progress: Progress) -> tuple[int, int]:
    """Find MACs, certificates and what else is missing, on as many cores as there are.

    Returns how many were left at the deadline, and how many need a GPU, which is not here.
    """
    jobs = [job for case in planned for job in _jobs(case, book.lacks(case))]
    waiting = {device: [job for job in jobs if job.place.device == device] for device in ("cpu", "cuda")}
    threads = max((job.place.threads for job in waiting["cpu"]), default=1)
    workers = {"cpu": max(1, min(len(waiting["cpu"]), usable_cores() // threads)), "cuda": 1}
    elsewhere = sum(len(waiting[device]) for device in waiting if device not in book.order.devices)
    left = 0
    with contextlib.ExitStack() as stack:
        running: dict[Future[_Answer | None], _Job] = {}
        for device in {*waiting} & {*book.order.devices}:
            pool = stack.enter_context(_Workers(workers[device], fresh))
            running |= {pool.submit(job, book): job for job in waiting[device]}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job, answer = running.pop(future), future.result()
                if answer is None or book.is_cut_short(*answer):
                    left += 1
                elif answer[0].parts:
                    progress(*book.progress(), job.case, " and ".join(job.parts), book.failures())
                    book.add(job.case, answer[0], examination=True)
    return left, elsewhere


_Answer = tuple[Round, Limits]
"""an examination and the limits it had; one without parts where another process had found everything meanwhile"""


class _Workers:
    """Threads that each put questions to processes of their own; a context manager."""

    def __init__(self, count: int, fresh: str) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._fresh = fresh
        self._own = threading.local()
        self._all: list[Processes] = []

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:  # Ctrl-C, or a full disk: nobody waits for what is running
            for processes in self._all:
                processes.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for processes in self._all:
            processes.renew()

    def submit(self, job: _Job, book: _Book) -> Future[_Answer | None]:
        """The answer, when it is there; None if the deadline has passed by then."""
        return self._pool.submit(self._examine, job, book)

    def _examine(self, job: _Job, book: _Book) -> _Answer | None:
        if not book.has_time():
            return None
        limits = book.limits()
        parts = [name for name in job.parts if name in book.lacks_now(job.case)]
        if not parts:
            return Round("ok"), limits
        if not hasattr(self._own, "processes"):
            self._own.processes = Processes(self._fresh)
            self._all.append(self._own.processes)
        processes: Processes = self._own.processes
        failed = [name for name, part in book.records[job.case].parts.items() if part.status != "ok"]
        one = processes.run_round(job.place, limits, parts, failed)
        if not one.parts:  # none was begun: that is how all of them ended
            one = replace(one, parts=dict.fromkeys(parts, Part(one.status, one.reason)))
        return one, limits
