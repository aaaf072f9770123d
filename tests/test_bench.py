"""The benchmarks of `bench/`: samples enough to see who else uses the machine; predicted beside published epochs."""

from __future__ import annotations

import pandas as pd
import pytest

from bench import epoch_budgets, test_layers
from lipbench.cases import Case, NetworkSpec
from lipbench.meters.time import LEAST_WATCH_S, MOST_SAMPLES
from lipbench.prediction import rates
from lipbench.prediction.operations import Operation


@pytest.mark.parametrize(("call_s", "expected"), [(1e-9, MOST_SAMPLES), (1e-3, None), (1.0, test_layers.ROUNDS)])
def test_samples_last_long_enough_to_see_others(monkeypatch: pytest.MonkeyPatch, call_s: float, expected: int | None) -> None:
    now = [0.0]

    def call() -> None:
        now[0] += call_s

    monkeypatch.setattr(test_layers.time, "perf_counter", lambda: now[0])
    rounds = test_layers.rounds_to_watch(call)
    assert rounds == expected if expected is not None else rounds * call_s >= LEAST_WATCH_S


def budgets(*published_s: float) -> pd.DataFrame:
    """Invented budgets of two methods and two sizes."""
    named = [("CPL", "XS"), ("AOL", "XS"), ("CPL", "S"), ("AOL", "S")]
    rows = [{"dataset": "cifar", "train_images": 1000, "batch_size": 4, "layer": layer, "size": size,
             "train_seconds_per_epoch": seconds} for (layer, size), seconds in zip(named, published_s)]  # fmt: skip
    return pd.DataFrame(rows)


def test_an_epoch_is_its_steps_on_the_named_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    product = Operation("mm", "product", 1e12, 1, 1, "float32")
    asked: list[Case] = []

    def counted(case: Case) -> tuple[dict[str, tuple[Operation, ...]], dict[str, str]]:
        asked.append(case)
        return {"step": (product,)}, {}

    monkeypatch.setattr(epoch_budgets.operations, "of_case", counted)
    table = budgets(10.0, 5.0)
    found = epoch_budgets.predicted(table, epoch_budgets.steps(table), rates.named("A100"), "tf32")
    assert asked == [Case(NetworkSpec(name, "XS"), 4, device="cuda") for name in ("cpl", "aol")]
    epoch_s = 250 * 2e12 / 156e12  # 250 steps at the peak of the data sheet, with two operations for each multiply-accumulate
    assert list(found["predicted_s"]) == pytest.approx([epoch_s, epoch_s])
    assert list(found["share"]) == pytest.approx([epoch_s / 10, epoch_s / 5])


def test_ratios_are_to_cpl_of_the_same_size_and_ranks_are_within_sizes() -> None:
    table = budgets(10.0, 20.0, 40.0, 20.0).assign(predicted_s=[1.0, 3.0, 9.0, 8.0])
    found = epoch_budgets.relative(table)
    assert list(found["published_ratio"]) == [1, 2, 1, 0.5]
    assert list(found["predicted_ratio"]) == pytest.approx([1, 3, 1, 8 / 9])
    ranks = {name: (count, times, ratios) for name, count, times, ratios in epoch_budgets.correlations(found)}
    assert ranks["cifar, XS"] == (2, pytest.approx(1), pytest.approx(1))
    assert ranks["cifar, all"] == (4, pytest.approx((4.5 / 5) ** 0.5), pytest.approx(1))
