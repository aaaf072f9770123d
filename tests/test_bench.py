"""The benchmarks of `bench/`: samples enough to see who else uses the machine."""

from __future__ import annotations

import pytest

from bench import test_layers
from lipbench.meters.time import LEAST_WATCH_S, MOST_SAMPLES


@pytest.mark.parametrize(("call_s", "expected"), [(1e-9, MOST_SAMPLES), (1e-3, None), (1.0, test_layers.ROUNDS)])
def test_samples_last_long_enough_to_see_others(monkeypatch: pytest.MonkeyPatch, call_s: float, expected: int | None) -> None:
    now = [0.0]

    def call() -> None:
        now[0] += call_s

    monkeypatch.setattr(test_layers.time, "perf_counter", lambda: now[0])
    rounds = test_layers.rounds_to_watch(call)
    assert rounds == expected if expected is not None else rounds * call_s >= LEAST_WATCH_S
