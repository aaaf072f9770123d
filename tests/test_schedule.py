"""The order of rounds, and what is left out, gone on with and retried. Rounds are answered here, not measured."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import samples

from lipbench.cases import Case, LayerSpec, Limits
from lipbench.errors import LipbenchError
from lipbench.quantities import GROUPS
from lipbench.run import examinations, schedule
from lipbench.run.book import MEASURED, Order, Progress
from lipbench.store import claims, records
from lipbench.store.claims import Owner
from lipbench.store.rounds import SCHEMA, Part, Record, Round, summed_up

Answer = Callable[[Case], Round]
SMALL, MIDDLE, LARGE = (samples.case("aol", channels) for channels in (2, 4, 8))
OTHER = samples.case("soc", 8)


class Rounds:
    """Stands for the executor: notes what was asked for, and answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Case, bool]] = []
        """cases, and whether memory was to be taken too"""
        self.parts: list[tuple[str, ...]] = []
        self.examined: list[tuple[Case, tuple[str, ...]]] = []
        self.limits: list[Limits] = []
        self.stopped = False
        self.answer: Answer = lambda case: timed(1.0)
        self.examination: Answer = lambda case: Round("ok", parts={"macs": Part(), "certificate": Part()})

    def run_round(self, case: Case, limits: Limits, parts: tuple[str, ...], failed: Iterable[str]) -> Round:
        self.limits.append(limits)
        if {*GROUPS}.isdisjoint(parts):
            self.examined.append((case, tuple(parts)))
            return self.examination(case)
        self.asked.append((case, "memory" in parts))
        self.parts.append(tuple(parts))
        return self.answer(case)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


ROUNDS = ("time", "memory")


def timed(seconds: float = 1.0, **failed: Part) -> Round:
    """A round of the groups that have to be there, or not, with memory."""
    parts = {**dict.fromkeys(("training", "step", "inference", "memory"), Part()), **failed}
    phases = {name: samples.timing(seconds) for name in GROUPS if parts.get(name, Part("no")).status == "ok"}
    return summed_up(Round("ok", parts=parts, phases=phases))


def run(
    directory: Path,
    planned: list[Case],
    rounds: Rounds,
    known: Iterable[Record] = (),
    progress: Progress = lambda *_: None,
    **order: object,
) -> schedule.Outcome:
    """A run of two rounds, by default of nothing else, that finds `known` records on disk."""
    (directory / "records").mkdir(exist_ok=True)
    for record in known:
        records.save(directory, record)
    asked = Order(2, Limits(), **{"measure": ROUNDS, **order})  # type: ignore[arg-type]
    return schedule.run(directory, planned, asked, rounds, progress)  # type: ignore[arg-type]


def stored(directory: Path) -> dict[Case, Record]:
    return {record.case: record for record in map(records.load_record, (directory / "records").glob("*.json"))}


def test_rounds_are_interleaved_and_only_the_first_takes_memory(tmp_path: Path, rounds: Rounds) -> None:
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert rounds.asked == [(SMALL, True), (OTHER, True), (SMALL, False), (OTHER, False)]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}
    assert all(len(record.rounds) == 2 for record in outcome.records)


def test_what_is_no_time_comes_last_and_from_other_processes(tmp_path: Path, rounds: Rounds) -> None:
    rounds.examination = lambda case: Round("ok", parts={"macs": Part(), "certificate": Part()})
    outcome = run(tmp_path, [SMALL, OTHER], rounds, measure=MEASURED)
    assert sorted(rounds.examined) == [(SMALL, ("macs", "certificate")), (OTHER, ("macs", "certificate"))]
    assert [len(record.examinations) for record in outcome.records] == [1, 1]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}
    rounds.examined.clear()
    run(tmp_path, [SMALL, OTHER], rounds, measure=MEASURED)
    assert rounds.examined == []


def test_what_an_examination_finds_wrong_is_the_status_of_the_case(tmp_path: Path, rounds: Rounds) -> None:
    violated = {"macs": Part(), "certificate": Part("not_lipschitz", "2")}
    rounds.examination = lambda case: summed_up(Round("ok", parts=violated))
    (record,) = run(tmp_path, [SMALL], rounds, measure=MEASURED).records
    assert (record.status, record.reason, len(record.rounds)) == ("not_lipschitz", "2", 2)


def test_nothing_is_examined_of_which_nothing_could_be_timed(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("unsupported", "give it a million")
    run(tmp_path, [SMALL], rounds, measure=MEASURED)
    assert rounds.examined == []
    run(tmp_path, [OTHER], rounds, measure=("certificate",))  # nobody has tried to
    assert rounds.examined == [(OTHER, ("certificate",))]


@pytest.mark.parametrize(
    ("implementation", "places"),
    [
        ("paper", {"memory": ("cuda", 2), "macs": ("cuda", 2), "certificate": ("cpu", 1)}),
        ("triton", {"memory": ("cuda", 2), "macs": ("cuda", 2), "certificate": ("cuda", 2)}),
    ],
)
def test_on_a_gpu_certificates_are_left_to_the_cpu_where_no_kernel_computes(
    implementation: str, places: dict[str, tuple[str, int]]
) -> None:
    case = Case(LayerSpec("aol", 4, 8, implementation=implementation), 2, device="cuda", threads=2, compile=True)
    jobs = examinations.jobs(case, list(places))
    assert {part: (job.place.device, job.place.threads) for job in jobs for part in job.parts} == places
    assert all(job.case == case and job.place.compile == ("memory" in job.parts) for job in jobs)


def test_what_needs_a_gpu_is_left_where_there_is_none(tmp_path: Path, rounds: Rounds) -> None:
    case = replace(SMALL, device="cuda")
    rounds.examination = lambda case: Round("ok", parts={"certificate": Part()})
    outcome = run(tmp_path, [case], rounds, [Record(case, 2, (timed(), timed()))], measure=MEASURED, devices=("cpu",))
    assert [parts for _, parts in rounds.examined] == [("certificate",)]
    assert (outcome.left, outcome.elsewhere) == (0, 1)


def test_what_was_asked_for_comes_before_what_stands(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [SMALL, MIDDLE, OTHER], rounds, first=frozenset({OTHER}))
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER, SMALL, MIDDLE, SMALL, MIDDLE]


def test_a_group_that_failed_is_not_tried_again_and_the_others_are(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: timed(training=Part("out_of_memory", "no more"))
    (record,) = run(tmp_path, [SMALL], rounds).records
    assert rounds.parts == [(*GROUPS, "memory"), ("step", "inference")]
    assert (record.status, record.reason, len(record.rounds)) == ("out_of_memory", "training: no more", 2)


def test_of_larger_sizes_only_what_ran_out_of_memory_is_skipped(tmp_path: Path, rounds: Rounds) -> None:
    def answer(case: Case) -> Round:
        return timed(training=Part("out_of_memory", "no more")) if case == SMALL else timed()

    rounds.answer = answer
    _, record = run(tmp_path, [SMALL, LARGE], rounds).records
    assert rounds.parts[1] == (*(name for name in GROUPS if name != "training"), "memory")
    assert record.parts["training"].status == "skipped"
    assert SMALL.id in record.parts["training"].reason
    assert record.parts["step"].status == "ok"
    assert record.status == "skipped"


def test_a_failed_case_runs_no_more_rounds_and_the_run_goes_on(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("crashed", "SIGSEGV") if case == SMALL else timed()
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert [case for case, _ in rounds.asked] == [SMALL, OTHER, OTHER]
    assert [record.status for record in outcome.records] == ["crashed", "ok"]


def test_larger_sizes_are_skipped_after_running_out_of_memory(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("out_of_memory", "no more") if case == MIDDLE else timed()
    outcome = run(tmp_path, [SMALL, MIDDLE, LARGE, OTHER], rounds)
    assert [record.status for record in outcome.records] == ["ok", "out_of_memory", "skipped", "ok"]
    assert MIDDLE.id in outcome.records[2].reason
    assert LARGE not in [case for case, _ in rounds.asked]


def test_compiling_may_take_memory_that_the_layer_does_not(tmp_path: Path, rounds: Rounds) -> None:
    compiled, larger = replace(MIDDLE, compile=True), replace(LARGE, compile=True)
    rounds.answer = lambda case: Round("out_of_memory", "no more") if case == compiled else timed()
    outcome = run(tmp_path, [compiled, LARGE, larger], rounds)
    assert [record.status for record in outcome.records] == ["out_of_memory", "ok", "skipped"]


def test_finished_records_are_neither_measured_nor_written_again(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [SMALL], rounds)
    path = records.record_path(tmp_path, SMALL)
    before = path.stat()
    rounds.asked.clear()
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [record.status for record in outcome.records] == ["ok", "ok"]


def test_a_begun_record_goes_on_where_it_stopped(tmp_path: Path, rounds: Rounds) -> None:
    begun = Record(SMALL, 2, (timed(5.0),))
    outcome = run(tmp_path, [SMALL], rounds, known=[begun])
    assert rounds.asked == [(SMALL, False)]
    assert outcome.records[0].rounds[0] == begun.rounds[0]
    assert len(outcome.records[0].rounds) == 2


def test_failed_cases_are_retried_only_when_asked(tmp_path: Path, rounds: Rounds) -> None:
    good = timed(5.0)
    known = [Record(SMALL, 2, (good, Round("timeout", "slow"))), Record(LARGE, 2, (Round("skipped", "larger"),))]
    assert [record.status for record in run(tmp_path, [SMALL, LARGE], rounds, known).records] == ["timeout", "skipped"]
    assert rounds.asked == []
    outcome = run(tmp_path, [SMALL, LARGE], rounds, retry_failed=True)
    assert rounds.asked == [(LARGE, True), (SMALL, False), (LARGE, False)]
    assert [record.status for record in outcome.records] == ["ok", "ok"]
    assert outcome.records[0].rounds[0] == good
    assert stored(tmp_path) == {record.case: record for record in outcome.records}


def test_no_round_starts_after_the_deadline(tmp_path: Path, rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])

    def take_ten_seconds(case: Case) -> Round:
        now[0] += 10
        return timed()

    rounds.answer = take_ten_seconds
    outcome = run(tmp_path, [SMALL, MIDDLE], rounds, deadline=25)
    assert len(rounds.asked) == 3
    assert outcome.left == 1
    assert [record.finished for record in outcome.records] == [True, False]


def test_a_round_that_the_deadline_ends_is_forgotten(tmp_path: Path, rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule.time, "monotonic", lambda: 10.0)
    rounds.answer = lambda case: Round("timeout", "slow", parts={"training": Part("timeout", "slow")})
    outcome = run(tmp_path, [SMALL], rounds, deadline=25)
    assert rounds.limits == [Limits(timeout_s=15.0)] * 2
    assert outcome.left == 2
    assert stored(tmp_path) == {}
    assert not (tmp_path / "claims").exists()
    outcome = run(tmp_path, [SMALL], rounds, deadline=10 + 2 * Limits().timeout_s)  # it had all the time that it may have
    assert [record.status for record in outcome.records] == ["timeout"]


def test_a_round_whose_worst_part_is_not_the_deadlines_is_forgotten_too(
    tmp_path: Path, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule.time, "monotonic", lambda: 10.0)
    rounds.answer = lambda case: timed(training=Part("out_of_memory", "full"), inference=Part("timeout", "slow"))
    assert run(tmp_path, [SMALL], rounds, deadline=25).left == 2
    assert stored(tmp_path) == {}


def test_an_examination_that_could_not_begin_is_how_its_parts_ended(tmp_path: Path, rounds: Rounds) -> None:
    rounds.examination = lambda case: Round("out_of_memory", "full")
    (record,) = run(tmp_path, [SMALL], rounds, measure=MEASURED).records
    assert record.parts["certificate"] == Part("out_of_memory", "full")
    rounds.examined.clear()
    run(tmp_path, [SMALL], rounds, measure=MEASURED)
    assert rounds.examined == []
    rounds.examination = lambda case: Round("ok", parts={"macs": Part(), "certificate": Part()})
    (record,) = run(tmp_path, [SMALL], rounds, measure=MEASURED, retry_failed=True).records
    assert record.status == "ok"


def test_what_another_process_has_examined_meanwhile_is_not_examined_again(tmp_path: Path, rounds: Rounds) -> None:
    done = Round("ok", parts={"macs": Part(), "certificate": Part()})

    def meanwhile(case: Case) -> Round:
        other = OTHER if case == SMALL else SMALL
        if not stored(tmp_path)[other].examinations:
            records.add_round(tmp_path, stored(tmp_path)[other], done, examination=True)
        return done

    rounds.examination = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER], rounds, measure=MEASURED)
    assert len(rounds.examined) == 1
    assert [len(record.examinations) for record in outcome.records] == [1, 1]


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(LipbenchError, match="No space left"):
        run(tmp_path, [SMALL], rounds)


def test_a_failed_case_whose_turn_does_not_come_stays_failed(tmp_path: Path, rounds: Rounds) -> None:
    known = [Record(SMALL, 2, (Round("timeout", "slow"),))]
    outcome = run(tmp_path, [SMALL], rounds, known=known, retry_failed=True, deadline=0.0)
    assert rounds.asked == []
    assert outcome.records == tuple(known)
    assert outcome.left == 2


def test_progress_counts_rounds_and_failures(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: Round("raised", "no") if case == SMALL else timed()
    seen: list[tuple[object, ...]] = []
    run(tmp_path, [SMALL, OTHER], rounds, progress=lambda *now: seen.append(now))
    assert seen == [(0, 4, SMALL, "round 1", 0), (2, 4, OTHER, "round 1", 1), (3, 4, OTHER, "round 2", 1)]


def test_a_round_that_another_process_has_stored_is_neither_lost_nor_measured_again(tmp_path: Path, rounds: Rounds) -> None:
    others = [timed(5.0), timed(6.0)]

    def meanwhile(case: Case) -> Round:
        if case == SMALL:  # another process stores a round of this case, and all rounds of the next
            records.add_round(tmp_path, Record(SMALL, 2), others[0])
            for one in others:
                records.add_round(tmp_path, Record(OTHER, 2), one)
        return timed(1.0)

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert rounds.asked == [(SMALL, True)]
    own = timed(1.0)
    assert [record.rounds for record in outcome.records] == [(others[0], own), tuple(others)]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}


def test_a_failure_that_another_process_has_stored_ends_the_case(tmp_path: Path, rounds: Rounds) -> None:
    def meanwhile(case: Case) -> Round:
        if case == SMALL:
            records.add_round(tmp_path, Record(OTHER, 2), Round("crashed", "SIGSEGV"))
        return timed()

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert rounds.asked == [(SMALL, True), (SMALL, False)]
    assert [record.status for record in outcome.records] == ["ok", "crashed"]


def test_two_that_retry_a_failed_case_keep_what_the_other_measured(tmp_path: Path, rounds: Rounds) -> None:
    failed, other = Round("timeout", "slow"), timed(5.0)

    def meanwhile(case: Case) -> Round:
        records.add_round(tmp_path, Record(SMALL, 2), other, [failed])
        return timed()

    rounds.answer = meanwhile
    (record,) = run(tmp_path, [SMALL], rounds, [Record(SMALL, 2, (failed,))], retry_failed=True).records
    assert rounds.asked == [(SMALL, True)]
    assert record.rounds == (other, timed())


def claim(directory: Path, case: Case, owner: Owner) -> Path:
    """A claim that another worker holds."""
    path = directory / "claims" / f"{case.id}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(owner)))
    return path


def test_a_case_that_another_worker_has_claimed_is_waited_for_and_others_come_first(tmp_path: Path, rounds: Rounds) -> None:
    claim(tmp_path, SMALL, Owner("elsewhere", 1, "1", time.time() + 1.0))
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER, SMALL, SMALL]
    assert (outcome.left, [len(record.rounds) for record in outcome.records]) == (0, [2, 2])
    assert not (tmp_path / "claims").exists()


def test_what_another_worker_has_measured_is_reported_and_not_measured(tmp_path: Path, rounds: Rounds) -> None:
    path = claim(tmp_path, SMALL, Owner("elsewhere", 1, "1", time.time() + 1000))
    others = [timed(5.0), Round("crashed", "SIGSEGV")]

    def meanwhile(case: Case) -> Round:
        if path.exists():
            for one in others:
                records.add_round(tmp_path, Record(SMALL, 2), one)
            path.unlink()
        return timed()

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER]
    assert outcome.records[0].rounds == tuple(others)


def test_what_another_worker_has_retried_is_reported_as_it_is_now(tmp_path: Path, rounds: Rounds) -> None:
    failed = Round("timeout", "slow")

    def meanwhile(case: Case) -> Round:
        for _ in range(2):
            records.add_round(tmp_path, Record(SMALL, 2), timed(), [failed])
        return timed()

    rounds.answer = meanwhile
    known = [Record(case, 2, (failed,)) for case in (OTHER, SMALL)]
    outcome = run(tmp_path, [OTHER, SMALL], rounds, known, retry_failed=True)
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER]
    assert [record.status for record in outcome.records] == ["ok", "ok"]


def test_nobody_waits_for_another_worker_after_the_deadline(tmp_path: Path, rounds: Rounds) -> None:
    path = claim(tmp_path, SMALL, Owner("elsewhere", 1, "1", time.time() + 1000))
    outcome = run(tmp_path, [SMALL], rounds, deadline=time.monotonic() + 0.1)
    assert (rounds.asked, outcome.left) == ([], 2)
    assert path.exists()


def test_nothing_is_examined_while_another_worker_of_this_machine_measures(tmp_path: Path, rounds: Rounds) -> None:
    with claims.claimed(tmp_path, OTHER, 1000):
        outcome = run(tmp_path, [SMALL], rounds, measure=MEASURED, deadline=time.monotonic() + 1.0)
        assert (len(rounds.asked), rounds.examined, outcome.left) == (2, [], 1)
    assert run(tmp_path, [SMALL], rounds, measure=MEASURED).left == 0
    assert rounds.examined == [(SMALL, ("macs", "certificate"))]


def test_a_worker_elsewhere_keeps_nobody_from_examining(tmp_path: Path, rounds: Rounds) -> None:
    claim(tmp_path, OTHER, Owner("elsewhere", 1, "1", time.time() + 1000))
    assert run(tmp_path, [SMALL], rounds, measure=MEASURED).left == 0
    assert len(rounds.examined) == 1


def test_a_smaller_size_that_ran_out_of_memory_elsewhere_is_known(tmp_path: Path, rounds: Rounds) -> None:
    path = claim(tmp_path, SMALL, Owner("elsewhere", 1, "1", time.time() + 1000))

    def meanwhile(case: Case) -> Round:
        if path.exists():
            records.add_round(tmp_path, Record(SMALL, 2), Round("out_of_memory", "no more"))
            path.unlink()
        return timed()

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL, OTHER, LARGE], rounds)
    assert [case for case, _ in rounds.asked] == [OTHER, OTHER]
    assert [record.status for record in outcome.records] == ["out_of_memory", "ok", "skipped"]


@pytest.mark.parametrize("what", ["answer", "examination"])
def test_an_interruption_leaves_no_claim_and_stops_what_runs(tmp_path: Path, rounds: Rounds, what: str) -> None:
    def interrupted(case: Case) -> Round:
        assert (tmp_path / "claims" / f"{case.id}.json").exists()
        raise KeyboardInterrupt

    setattr(rounds, what, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [SMALL], rounds, measure=MEASURED)
    assert not (tmp_path / "claims").exists()
    assert rounds.stopped == (what == "examination")


def test_a_record_of_another_case_in_its_place_is_measured_again(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [OTHER], rounds)
    records.record_path(tmp_path, OTHER).rename(records.record_path(tmp_path, SMALL))
    rounds.asked.clear()
    outcome = run(tmp_path, [SMALL], rounds)
    assert [case for case, _ in rounds.asked] == [SMALL, SMALL]
    assert stored(tmp_path) == {SMALL: outcome.records[0]}


def test_a_damaged_record_is_measured_again(tmp_path: Path, rounds: Rounds) -> None:
    run(tmp_path, [SMALL, OTHER], rounds)
    path = records.record_path(tmp_path, SMALL)
    path.write_bytes(path.read_bytes()[:100])
    rounds.asked.clear()
    outcome = run(tmp_path, [SMALL, OTHER], rounds)
    assert rounds.asked == [(SMALL, True), (SMALL, False)]
    assert stored(tmp_path) == {record.case: record for record in outcome.records}
    assert outcome.problems == ()


@pytest.mark.parametrize("retry_failed", [False, True])
def test_what_is_not_to_be_written_over_is_left_alone_and_named(tmp_path: Path, rounds: Rounds, retry_failed: bool) -> None:
    (tmp_path / "records").mkdir()
    newer, folder = records.record_path(tmp_path, SMALL), records.record_path(tmp_path, OTHER)
    newer.write_text(f'{{"schema": {SCHEMA + 1}}}')
    (folder / "inside").mkdir(parents=True)
    outcome = run(tmp_path, [SMALL, MIDDLE, OTHER], rounds, retry_failed=retry_failed)
    assert {case for case, _ in rounds.asked} == {MIDDLE}
    assert [record.case for record in outcome.records] == [MIDDLE]
    assert [problem.count("\n") for problem in outcome.problems] == [0, 0]
    assert "install a newer lipbench" in outcome.problems[0]
    assert newer.name in outcome.problems[0]
    assert folder.name in outcome.problems[1]
    assert newer.read_text() == f'{{"schema": {SCHEMA + 1}}}'
    assert (folder / "inside").is_dir()


def test_a_newer_record_that_comes_while_its_case_is_measured_stays(tmp_path: Path, rounds: Rounds) -> None:
    def meanwhile(case: Case) -> Round:
        records.record_path(tmp_path, SMALL).write_text(f'{{"schema": {SCHEMA + 1}}}')
        return timed()

    rounds.answer = meanwhile
    outcome = run(tmp_path, [SMALL], rounds)
    assert rounds.asked == [(SMALL, True)]
    assert (outcome.records, len(outcome.problems)) == ((), 1)
    assert records.record_path(tmp_path, SMALL).read_text() == f'{{"schema": {SCHEMA + 1}}}'
