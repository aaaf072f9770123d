"""The order of rounds, and what is left out, gone on with and retried. Rounds are answered here, not measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import samples

from lipbench import isolate, records, schedule
from lipbench.cases import Case, Limits
from lipbench.errors import LipbenchError
from lipbench.records import Record, Round

Answer = Callable[[Case], Round]
SMALL, MIDDLE, LARGE = (samples.case("aol", channels) for channels in (2, 4, 8))
OTHER = samples.case("soc", 8)


class Rounds:
    """Stands for the processes: notes what was asked for, and answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Case, bool]] = []
        self.answer: Answer = lambda case: samples.ok({"forward": samples.timing(1.0)})

    def __call__(self, case: Case, limits: Limits, first: bool) -> Round:
        self.asked.append((case, first))
        return self.answer(case)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Rounds:
    fake = Rounds()
    monkeypatch.setattr(isolate, "run_round", fake)
    return fake


def run(directory: Path, planned: list[Case], known: Iterable[Record] = (), **options: object) -> schedule.Outcome:
    """A run of two rounds that finds `known` records on disk."""
    (directory / "records").mkdir(exist_ok=True)
    for record in known:
        records.save(directory, record)
    return schedule.run(directory, planned, 2, Limits(), **options)  # type: ignore[arg-type]


def stored(directory: Path) -> dict[Case, Record]:
    return {record.case: record for record in map(records.load_record, (directory / "records").glob("*.json"))}


def test_rounds_are_interleaved_and_only_the_first_takes_memory(tmp_path: Path, rounds: Rounds) -> None:
    outcome = run(tmp_path, [SMALL, OTHER])
    assert rounds.asked == [(SMALL, True), (OTHER, True), (SMALL, False), (OTHER, False)]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}
    assert all(len(record.rounds) == 2 for record in outcome.records)


def test_a_failed_case_runs_no_more_rounds_and_the_run_goes_on(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("crashed", "SIGSEGV") if case == SMALL else samples.ok({})
    outcome = run(tmp_path, [SMALL, OTHER])
    assert [case for case, _ in rounds.asked] == [SMALL, OTHER, OTHER]
    assert [record.status for record in outcome.records] == ["crashed", "ok"]


def test_larger_sizes_are_skipped_after_running_out_of_memory(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("out_of_memory", "no more") if case == MIDDLE else samples.ok({})
    outcome = run(tmp_path, [SMALL, MIDDLE, LARGE, OTHER])
    assert [record.status for record in outcome.records] == ["ok", "out_of_memory", "skipped", "ok"]
    assert MIDDLE.id in outcome.records[2].reason
    assert LARGE not in [case for case, _ in rounds.asked]


def test_compiling_may_take_memory_that_the_layer_does_not(tmp_path: Path, rounds: Rounds) -> None:
    compiled, larger = replace(MIDDLE, compile=True), replace(LARGE, compile=True)
    rounds.answer = lambda case: Round("out_of_memory", "no more") if case == compiled else samples.ok({})
    outcome = run(tmp_path, [compiled, LARGE, larger])
    assert [record.status for record in outcome.records] == ["out_of_memory", "ok", "skipped"]


def test_finished_records_are_neither_measured_nor_written_again(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [SMALL])
    path = records.record_path(tmp_path, SMALL)
    before = path.stat()
    rounds.asked.clear()
    outcome = run(tmp_path, [SMALL, OTHER])
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [record.status for record in outcome.records] == ["ok", "ok"]


def test_a_begun_record_goes_on_where_it_stopped(tmp_path: Path, rounds: Rounds) -> None:
    begun = Record(SMALL, 2, (samples.ok({"forward": samples.timing(5.0)}),))
    outcome = run(tmp_path, [SMALL], known=[begun])
    assert rounds.asked == [(SMALL, False)]
    assert outcome.records[0].rounds[0] == begun.rounds[0]
    assert len(outcome.records[0].rounds) == 2


def test_failed_cases_are_retried_only_when_asked(tmp_path: Path, rounds: Rounds) -> None:
    good = samples.ok({"forward": samples.timing(5.0)})
    known = [Record(SMALL, 2, (good, Round("timeout", "slow"))), Record(LARGE, 2, (Round("skipped", "larger"),))]
    assert [record.status for record in run(tmp_path, [SMALL, LARGE], known).records] == ["timeout", "skipped"]
    assert rounds.asked == []
    outcome = run(tmp_path, [SMALL, LARGE], retry_failed=True)
    assert rounds.asked == [(LARGE, True), (SMALL, False), (LARGE, False)]
    assert [record.status for record in outcome.records] == ["ok", "ok"]
    assert outcome.records[0].rounds[0] == good
    assert stored(tmp_path) == {record.case: record for record in outcome.records}


def test_no_round_starts_after_the_deadline(tmp_path: Path, rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])

    def take_ten_seconds(case: Case) -> Round:
        now[0] += 10
        return samples.ok({})

    rounds.answer = take_ten_seconds
    outcome = run(tmp_path, [SMALL, MIDDLE], deadline=25)
    assert len(rounds.asked) == 3
    assert outcome.left == 1
    assert [record.finished for record in outcome.records] == [True, False]


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(LipbenchError, match="No space left"):
        run(tmp_path, [SMALL])


def test_a_failed_case_whose_turn_does_not_come_stays_failed(tmp_path: Path, rounds: Rounds) -> None:
    known = [Record(SMALL, 2, (Round("timeout", "slow"),))]
    outcome = run(tmp_path, [SMALL], known=known, retry_failed=True, deadline=0.0)
    assert rounds.asked == []
    assert outcome.records == tuple(known)
    assert outcome.left == 2


def test_progress_counts_rounds_and_failures(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("raised", "no") if case == SMALL else samples.ok({})
    seen: list[tuple[object, ...]] = []
    run(tmp_path, [SMALL, OTHER], progress=lambda *now: seen.append(now))
    assert seen == [(0, 4, SMALL, 0, 0), (2, 4, OTHER, 0, 1), (3, 4, OTHER, 1, 1)]


def test_a_round_that_another_process_has_stored_is_neither_lost_nor_measured_again(tmp_path: Path, rounds: Rounds) -> None:
    others = [samples.ok({"forward": samples.timing(5.0)}), samples.ok({"forward": samples.timing(6.0)})]

    def meanwhile(case: Case) -> Round:
        if case == SMALL:  # another process stores a round of this case, and all rounds of the next
            records.add_round(tmp_path, Record(SMALL, 2), others[0])
            for one in others:
                records.add_round(tmp_path, Record(OTHER, 2), one)
        return samples.ok({"forward": samples.timing(1.0)})

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER])
    assert rounds.asked == [(SMALL, True)]
    own = samples.ok({"forward": samples.timing(1.0)})
    assert [record.rounds for record in outcome.records] == [(others[0], own), tuple(others)]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}


def test_a_failure_that_another_process_has_stored_ends_the_case(tmp_path: Path, rounds: Rounds) -> None:
    def meanwhile(case: Case) -> Round:
        if case == SMALL:
            records.add_round(tmp_path, Record(OTHER, 2), Round("crashed", "SIGSEGV"))
        return samples.ok({})

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER])
    assert rounds.asked == [(SMALL, True), (SMALL, False)]
    assert [record.status for record in outcome.records] == ["ok", "crashed"]


def test_two_that_retry_a_failed_case_keep_what_the_other_measured(tmp_path: Path, rounds: Rounds) -> None:
    failed, other = Round("timeout", "slow"), samples.ok({"forward": samples.timing(5.0)})

    def meanwhile(case: Case) -> Round:
        records.add_round(tmp_path, Record(SMALL, 2), other, [failed])
        return samples.ok({})

    rounds.answer = meanwhile
    (record,) = run(tmp_path, [SMALL], [Record(SMALL, 2, (failed,))], retry_failed=True).records
    assert rounds.asked == [(SMALL, True)]
    assert record.rounds == (other, samples.ok({}))


def test_a_record_of_another_case_in_its_place_is_measured_again(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [OTHER])
    records.record_path(tmp_path, OTHER).rename(records.record_path(tmp_path, SMALL))
    rounds.asked.clear()
    outcome = run(tmp_path, [SMALL])
    assert [case for case, _ in rounds.asked] == [SMALL, SMALL]
    assert stored(tmp_path) == {SMALL: outcome.records[0]}


def test_a_damaged_record_is_measured_again(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [SMALL, OTHER])
    path = records.record_path(tmp_path, SMALL)
    path.write_bytes(path.read_bytes()[:100])
    rounds.asked.clear()
    outcome = run(tmp_path, [SMALL, OTHER])
    assert rounds.asked == [(SMALL, True), (SMALL, False)]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}
    assert outcome.problems == ()


@pytest.mark.parametrize("retry_failed", [False, True])
def test_what_is_not_to_be_written_over_is_left_alone_and_named(tmp_path: Path, rounds: Rounds, retry_failed: bool) -> None:
    (tmp_path / "records").mkdir()
    newer, folder = records.record_path(tmp_path, SMALL), records.record_path(tmp_path, OTHER)
    newer.write_text(f'{{"schema": {records.SCHEMA + 1}}}')
    (folder / "inside").mkdir(parents=True)
    outcome = run(tmp_path, [SMALL, MIDDLE, OTHER], retry_failed=retry_failed)
    assert {case for case, _ in rounds.asked} == {MIDDLE}
    assert [record.case for record in outcome.records] == [MIDDLE]
    assert [problem.count("\n") for problem in outcome.problems] == [0, 0]
    assert "install a newer lipbench" in outcome.problems[0]
    assert newer.name in outcome.problems[0]
    assert folder.name in outcome.problems[1]
    assert newer.read_text() == f'{{"schema": {records.SCHEMA + 1}}}'
    assert (folder / "inside").is_dir()


def test_a_newer_record_that_comes_while_its_case_is_measured_stays(tmp_path: Path, rounds: Rounds) -> None:
    def meanwhile(case: Case) -> Round:
        records.record_path(tmp_path, SMALL).write_text(f'{{"schema": {records.SCHEMA + 1}}}')
        return samples.ok({})

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL])
    assert rounds.asked == [(SMALL, True)]
    assert (outcome.records, len(outcome.problems)) == ((), 1)
    assert records.record_path(tmp_path, SMALL).read_text() == f'{{"schema": {records.SCHEMA + 1}}}'
