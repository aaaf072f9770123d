"""The self-test's three outcomes: what is called ok, failed and too noisy."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lipbench import selftest
from lipbench.selftest import FAILED, NOISY, OK, Turn, judged


def turns(ratio: float, noise: float, busy: int = 0) -> list[Turn]:
    rng = np.random.default_rng(0)
    return [
        Turn(1e-3 * ratio * float(np.exp(rng.normal(0, noise))), 1e-3, quiet=number >= busy) for number in range(selftest.TURNS)
    ]


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (turns(1.0, 0.01), OK),
        (turns(1.02, 0.01), OK),
        (turns(1.3, 0.01), FAILED),
        (turns(0.7, 0.01), FAILED),
        (turns(1.0, 0.3), NOISY),
        (turns(1.0, 0.01, busy=4), OK),
        (turns(1.3, 0.01, busy=5), NOISY),
    ],
)
def test_the_turns_decide_by_their_own_interval(given: list[Turn], outcome: str) -> None:
    assert judged(given)[0] == outcome


def test_a_wrong_clock_fails_and_a_busy_machine_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = [False]

    class Watched:
        def __init__(self, *_: object) -> None:
            self.contention = self

        @property
        def contended(self) -> bool:
            return spoilt[0]

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(selftest, "Watch", Watched)
    monkeypatch.setattr(selftest, "_ours_s", lambda call, device: 2e-3)
    assert selftest._row("x", "cpu", lambda: None, lambda: 1e-3)[1] == FAILED
    assert selftest._row("x", "cpu", lambda: None, lambda: 2e-3)[1] == OK
    spoilt[0] = True
    assert selftest._row("x", "cpu", lambda: None, lambda: 1e-3)[1] == NOISY
    spoilt[0] = False
    noise = np.random.default_rng(3)
    monkeypatch.setattr(selftest, "_ours_s", lambda call, device: float(np.exp(noise.normal(0, 0.08))))
    _, outcome, *_, turns, quiet, _ = selftest._row("x", "cpu", lambda: None, lambda: 1.0)
    assert (outcome, turns, quiet) == (OK, 27, 27), "turns are added until the interval decides"
    monkeypatch.setattr(selftest, "_ours_s", lambda call, device: float(np.exp(noise.normal(0, 1.0))))
    _, outcome, *_, turns, quiet, _ = selftest._row("x", "cpu", lambda: None, lambda: 1.0)
    assert (outcome, turns) == (NOISY, selftest.MOST_TURNS)


def test_counted_macs_are_the_known_ones_and_a_wrong_count_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selftest._product("cpu")[1] == OK
    monkeypatch.setitem(selftest.SIZES, "cpu", (8, 32, 15))
    assert selftest._product("cpu")[1] == OK
    monkeypatch.setattr(selftest.macs, "count", lambda run: type("Counted", (), {"total": 7})())
    assert selftest._product("cpu")[1] == FAILED


def test_the_busy_loop_lasts_as_long_as_it_says() -> None:
    call, length_s = selftest._spin(1e-3)
    clock = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)
    start = time.clock_gettime(clock)
    call()
    assert time.clock_gettime(clock) - start >= length_s() == 1e-3
