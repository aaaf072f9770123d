"""The order in which a run is measured: round 0 of all cases, then round 1 of all, and so on; last, the untimed parts.

A round in which a phase was contended is repeated after all others, up to a limit. With a target, rounds are then added to the
case whose interval is the widest.

Rounds are interleaved so that a drift of the machine affects all cases alike. MACs and certificates come after all timing.

Several workers, which are processes on one or more machines, may share a run directory. A worker claims a case (`store.claims`)
before it measures a round of it, skips cases that another worker has claimed, and waits if all are claimed. So each round is
measured once. Workers on one machine disturb each other's timing, which the meters record as contention: share a run among
machines, or among workers on separate cores. A worker starts its examinations when no other worker on its machine measures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lipbench.cases import Case
from lipbench.quantities import GROUPS
from lipbench.run.book import TIME, Book, Order, Progress
from lipbench.run.examinations import examine, jobs_left
from lipbench.run.executor import Executor
from lipbench.store.rounds import Part, Record, Round, summed_up

POLL_S = 0.5
"""interval between checks of the claims of other workers"""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run."""

    records: tuple[Record, ...]
    left: int
    """rounds and examinations that were not started or not finished because of the deadline"""
    elsewhere: int = 0
    """examinations that need a GPU where there is none"""
    problems: tuple[str, ...] = ()
    """cases that were not stored because their file must not be overwritten, one line each"""


def run(
    directory: Path, planned: Sequence[Case], order: Order, executor: Executor, progress: Progress = lambda *_: None
) -> Outcome:
    """Measure what is missing of the planned cases in a run directory; store each round as soon as it is measured.

    Finished records are neither measured nor written again. Failed parts are measured again only with `retry_failed`, which
    drops the failed rounds. Damaged records are replaced. Each case is claimed and its record read again before a round starts,
    so that no round is measured twice. Ends when this and other workers have left nothing to measure, or at the deadline.
    """
    book = Book(directory, planned, order)
    while True:
        begun = False
        while TIME in order.measure and not book.is_cut_short and book.has_time():
            if not (_rounds(book, planned, executor, progress) or _narrowing_round(book, executor, progress)):
                break
            begun = True
        if not book.others_are_here():
            begun |= examine(book, planned, executor, progress)
        if not book.has_time() or book.is_cut_short or not (book.rounds_left() or jobs_left(book, planned)):
            break
        if not begun:
            time.sleep(POLL_S)  # what is left is claimed by other workers
    book.read_again()
    left = book.rounds_left() + len(jobs_left(book, planned))
    return Outcome(book.outcome(), left, len(jobs_left(book, planned, elsewhere=True)), tuple(book.problems.values()))


def _rounds(book: Book, planned: Sequence[Case], executor: Executor, progress: Progress) -> bool:
    """Measure missing rounds that no other worker measures, interleaved; whether there were any."""
    measured = False
    for is_first in (True, False):
        cases = [case for case in planned if (case in book.order.first) == is_first]
        number = 0
        while number < book.most_wanted():  # a contended round adds one at the end
            for case in cases:
                if book.wants(case, number) and book.has_time():
                    measured |= _round(case, number, book, executor, progress)
            number += 1
    return measured


def _narrowing_round(book: Book, executor: Executor, progress: Progress) -> bool:
    """Measure one more round of the case whose interval is the widest, if that exceeds the target; whether there was one."""
    case = book.widest() if book.has_time() else None
    if case is None:
        return False
    book.add_wanted(case)
    return _round(case, len(book.records[case].rounds), book, executor, progress)


def _round(case: Case, number: int, book: Book, executor: Executor, progress: Progress) -> bool:
    """Measure and store the next round of a case; False if another worker has claimed it or has measured round `number`."""
    with book.claimed(case) as is_own:
        if not is_own or not book.wants(case, number):
            return False
        progress(*book.progress(), case, f"round {len(book.records[case].rounds) + 1}", book.failures())
        one = _next_round(case, book, executor)
        if one is not None:
            book.add(case, one)
    return True


def _next_round(case: Case, book: Book, executor: Executor) -> Round | None:
    """Measure one more round of the parts of a case that have not failed; None if the deadline ended it."""
    record = book.records[case]
    for other, known in book.records.items():
        if not known.rounds and _is_larger(case, other):
            book.read(other)  # another worker may have measured it
    too_large = _too_large(case, book.records)
    groups = [name for name in record.open_groups if name not in too_large]
    if not groups:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Round("skipped", next(iter(too_large.values())).reason, started=now)
    memory = ["memory"] if "memory" in book.order.measure and "memory" not in record.parts else []
    limits = book.limits()
    one = executor.run_round(case, limits, (*groups, *memory), [name for name in GROUPS if name not in groups])
    if book.forgets(one, limits):
        return None
    if not one.parts:
        return one
    skipped = {name: part for name, part in too_large.items() if name in record.open_groups}
    return summed_up(replace(one, parts={**one.parts, **skipped}))


def _too_large(case: Case, known: Mapping[Case, Record]) -> dict[str, Part]:
    """Groups of phases that are skipped because they ran out of memory at a smaller size."""
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
    """Whether a case equals another, except that at least one size is larger and none is smaller."""
    sizes, other_sizes = _sizes(case), _sizes(other)
    alike = _without_sizes(case) == _without_sizes(other)
    return alike and sizes != other_sizes and all(one >= two for one, two in zip(sizes, other_sizes))


def _sizes(case: Case) -> tuple[int, ...]:
    spec = case.spec
    return spec.channels, spec.image_size, spec.kernel_size, case.batch_size


def _without_sizes(case: Case) -> tuple[object, ...]:
    spec = case.spec
    conditions = (value for condition, value in case.conditions().items() if condition.affects_memory)
    return type(spec), spec.method, spec.implementation, *conditions
