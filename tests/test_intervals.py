"""Estimates over rounds: their values, their intervals, and the pairs of rounds that ratios are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lipbench_reports.cells import carried, estimated, interval
from lipbench_reports.intervals import Estimate, Level, estimate, of_rounds, paired
from scipy import stats

from bench import coverage
from lipbench.analysis import comparison


def levels(*medians: float, busy: tuple[int, ...] = ()) -> list[Level]:
    return [Level(number, median, number not in busy) for number, median in enumerate(medians)]


def test_a_time_is_the_geometric_mean_of_its_rounds_with_students_interval() -> None:
    found = of_rounds(levels(1.0, 2.0, 4.0))
    assert found.value == pytest.approx(2.0)
    low, high = stats.t.interval(0.95, 2, loc=math.log(2), scale=stats.sem(np.log([1, 2, 4])))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_two_rounds_that_differ_give_no_small_interval() -> None:
    """6.99 and 147.85 ms were once printed as 77.4 (69.6–81.6)."""
    cell = estimated(of_rounds(levels(6.99e-3, 147.85e-3)))
    assert cell.note == "uncertain by more than a factor of 10"


def test_one_round_has_no_interval() -> None:
    found = of_rounds(levels(3.0))
    assert (found.value, found.is_known) == (pytest.approx(3.0), False)
    assert estimated(found).note == ""


def test_busy_rounds_are_left_out_unless_all_are_busy() -> None:
    assert of_rounds(levels(1.0, 1.0, 50.0, busy=(2,))).value == pytest.approx(1.0)
    assert of_rounds(levels(4.0, 9.0, busy=(0, 1))).value == pytest.approx(6.0)


def test_rounds_of_one_number_are_paired_and_repeated_rounds_with_what_is_left() -> None:
    own = [*levels(2.0, 90.0, 6.0, busy=(1,)), Level(3, 10.0)]  # round 1 was disturbed, and repeated as round 3
    base = levels(1.0, 5.0, 3.0)
    assert paired(own, base) == pytest.approx([math.log(2), math.log(2), math.log(2)])


def test_drift_of_the_machine_cancels_in_paired_ratios() -> None:
    drift = np.linspace(1, 2, 5)
    ratio = estimate([paired(levels(*(3 * drift)), levels(*drift))])
    assert (ratio.low, ratio.high) == pytest.approx((3, 3))


def test_variances_of_shapes_add_up() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 0.1, 5) for mean in (0.0, 1.0)]
    found = estimate(groups)
    assert found.value == pytest.approx(math.exp(np.mean(groups)))
    each = [np.var(group, ddof=1) / 5 for group in groups]
    freedom = sum(each) ** 2 / sum(own**2 / 4 for own in each)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(each)) / 2
    assert math.log(found.high / found.low) / 2 == pytest.approx(reach)


@pytest.mark.parametrize(
    ("reach", "text", "note"), [(0.005, "1.23", "1.23–1.24"), (0.2, "1.2", "1.0–1.5"), (3, "1", "0.3–5")]
)  # fmt: skip
def test_no_more_digits_than_the_interval_carries(reach: float, text: str, note: str) -> None:
    found = Estimate(1.234, 1.234 / (1 + reach), 1.234 * (1 + reach))
    assert carried(found) == text
    assert interval(found) == note


def test_the_interval_covers_the_truth_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    for name, population in coverage.invented(rng):
        time, ratio = coverage.covered(population, 5, 1500, rng)
        assert 0.93 <= ratio <= 0.99, name
        if "two speeds" not in name:  # five of five rounds have the same speed in 17 of 100 draws, and cannot tell
            assert 0.93 <= time <= 0.97, name


def test_a_comparison_is_rarely_wrong_and_usually_sees_ten_per_cent() -> None:
    population = np.random.default_rng(1).normal(0, 0.02, 10_000)
    rng = np.random.default_rng(2)
    same = coverage.verdicts(population, 11, 144, 400, 0.0, rng)
    assert sum(one in (comparison.SLOWER, comparison.FASTER) for one in same) <= 2
    assert coverage.verdicts(population, 11, 144, 400, 0.1, rng).count(comparison.SLOWER) >= 380
