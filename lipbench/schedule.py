"""The order in which the rounds of a run are measured: round 0 of all cases, then round 1 of all, and so on.

Rounds are interleaved so that a drift of the machine meets all cases alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lipbench import errors, isolate, records
from lipbench.cases import Case, Limits, NetworkSpec
from lipbench.records import Record, Round

Progress = Callable[[int, int, Case, int, int], None]
"""(rounds done, rounds in all, case that begins, its round, failed cases so far)"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    records: tuple[Record, ...]
    left: int
    """rounds that were not started because of the deadline"""


def run(
    directory: Path,
    planned: Sequence[Case],
    rounds: int,
    limits: Limits,
    *,
    known: Iterable[Record] = (),
    retry_failed: bool = False,
    deadline: float | None = None,
    progress: Progress = lambda *_: None,
) -> Outcome:
    """Measure what is missing of the planned cases, each round saved as soon as it is there.

    `known` records are gone on with: finished ones are neither measured nor written again, failed ones only with
    `retry_failed`, and then without their failed round. No round is started when `time.monotonic()` has reached `deadline`.
    """
    stored = {record.case: record for record in known}
    begun = {
        case: _continued(stored[case], rounds, retry_failed) if case in stored else Record(case, rounds) for case in planned
    }
    state = dict(begun)
    done, left = 0, 0
    total = sum(max(0, rounds - len(record.rounds)) for record in state.values() if not record.finished)
    for number, case in itertools.product(range(rounds), planned):
        record = state[case]
        if record.finished or len(record.rounds) > number:
            continue
        if deadline is not None and time.monotonic() >= deadline:
            left += 1
            continue
        progress(done, total, case, number, sum(one.status not in records.HARMLESS for one in state.values()))
        state[case] = replace(record, rounds=(*record.rounds, _next_round(case, limits, record, state)))
        _save(directory, state[case])
        # A case that fails leaves out its other rounds.
        done += rounds - number if state[case].status != "ok" else 1
    # A failed case whose turn did not come stays as it is stored.
    return Outcome(tuple(stored.get(case, one) if one is begun[case] else one for case, one in state.items()), left)


def _save(directory: Path, record: Record) -> None:
    try:
        records.save(directory, record)
    except OSError as error:
        raise errors.not_writable(directory, error.strerror or str(error)) from error


def _continued(record: Record, rounds: int, retry_failed: bool) -> Record:
    kept = tuple(one for one in record.rounds if one.status == "ok") if retry_failed else record.rounds
    return replace(record, rounds_wanted=max(rounds, len(kept)), rounds=kept)


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
    width = spec.width if isinstance(spec, NetworkSpec) else spec.channels
    return width, spec.image_size, spec.kernel_size, case.batch_size


def _without_sizes(case: Case) -> tuple[object, ...]:
    spec = case.spec
    return type(spec), spec.method, spec.implementation, case.dtype, case.precision, case.device
