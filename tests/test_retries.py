"""Rounds that are added: for contended ones, up to a limit, and until every interval is within a target."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import samples
from test_schedule import OTHER, SMALL, Rounds, run, timed

from lipbench.cases import Case
from lipbench.cli import progress
from lipbench.quantities import Contention
from lipbench.run.book import MOST_ROUNDS, widest_reach
from lipbench.store.rounds import Record, Round


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


def disturbed(seconds: float = 9.0) -> Round:
    """A round whose step was contended."""
    one = timed(seconds)
    busy = Contention(0.5, 0.5, 9, contended=True)
    return replace(one, phases={**(one.phases or {}), "step": replace(samples.timing(seconds), contention=busy)})


def in_turn(*answers: Round) -> Callable[[Case], Round]:
    """The given rounds, one after the other, then quiet ones."""
    left = itertools.chain(answers, itertools.repeat(timed()))
    return lambda case: next(left)


def test_a_contended_round_is_repeated_after_all_others(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = in_turn(disturbed())
    outcome = run(tmp_path, [SMALL, OTHER], rounds, retries=2)
    assert [case for case, _ in rounds.asked] == [SMALL, OTHER, SMALL, OTHER, SMALL]
    assert [len(record.rounds) for record in outcome.records] == [3, 2]
    assert (outcome.left, outcome.records[0].disturbed) == (0, 1)


@pytest.mark.parametrize(("retries", "count"), [(0, 2), (1, 3), (3, 5)])
def test_rounds_are_repeated_up_to_the_limit(tmp_path: Path, rounds: Rounds, retries: int, count: int) -> None:
    rounds.answer = lambda case: disturbed()
    (record,) = run(tmp_path, [SMALL], rounds, retries=retries).records
    assert len(record.rounds) == count


def test_a_resumed_run_repeats_no_further_rounds_unless_asked_to(tmp_path: Path, rounds: Rounds) -> None:
    rounds.answer = lambda case: disturbed()
    run(tmp_path, [SMALL], rounds, retries=1)
    (record,) = run(tmp_path, [SMALL], rounds, retries=1).records
    assert len(record.rounds) == 3
    rounds.answer = lambda case: timed()
    (record,) = run(tmp_path, [SMALL], rounds, retries=1, retry_contended=True).records
    assert (len(record.rounds), record.disturbed) == (4, 3)
    (record,) = run(tmp_path, [SMALL], rounds, retries=2, retry_contended=True).records
    assert len(record.rounds) == 5, "two of the three contended rounds had been repeated"


def test_rounds_are_added_to_the_case_with_the_widest_interval(tmp_path: Path, rounds: Rounds) -> None:
    wild = itertools.chain([1.0, 1.5, 1.2], itertools.repeat(1.2))
    rounds.answer = lambda case: timed(next(wild)) if case == SMALL else timed(1.0)
    outcome = run(tmp_path, [SMALL, OTHER], rounds, target=0.08)
    small, other = outcome.records
    assert len(other.rounds) == 2
    assert 4 <= len(small.rounds) < MOST_ROUNDS
    assert widest_reach(small) <= 0.08 < widest_reach(replace(small, rounds=small.rounds[:-1]))
    assert progress.reached(outcome, 0.08).startswith("2 of 2 cases have every interval within ± 8 %; the widest is ± ")


def test_a_case_that_never_settles_ends_at_the_largest_number(tmp_path: Path, rounds: Rounds) -> None:
    swinging = itertools.cycle([1.0, 9.0])
    rounds.answer = lambda case: timed(next(swinging))
    (record,) = run(tmp_path, [SMALL], rounds, target=0.01).records
    assert len(record.rounds) == MOST_ROUNDS


def test_one_round_has_no_interval() -> None:
    assert widest_reach(Record(SMALL, 1, (timed(),))) == float("inf")
