"""Estimates over rounds: their values, their intervals, and the pairs of rounds that ratios are made of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import samples
from lipbench_reports.cells import carried, estimated, interval
from lipbench_reports.intervals import Estimate, Level, estimate, of_rounds, paired
from scipy import stats

from bench import coverage
from lipbench.analysis import comparison
from lipbench.analysis.statistics import time_columns
from lipbench.cases import Case, LayerSpec
from lipbench.store.rounds import Part, Record, Round


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
    assert cell.note == "uncertain by over 10×"


@pytest.mark.parametrize(
    ("medians", "mean", "converged"),
    [
        ((147.85e-3, 6.99e-3), 32.15e-3, False),
        ((1e-3, 1.57e-3), 1.253e-3, False),
        ((1.0e-3, 1.002e-3, 1.001e-3), 1.001e-3, True),
    ],
)
def test_an_export_has_the_mean_over_rounds_and_says_whether_it_converged(
    medians: tuple[float, ...], mean: float, converged: bool
) -> None:
    """A phase whose rounds differ by 57 % was once exported as converged, and the first as 77.4 ms, which no round measured."""
    rounds = {number: samples.timing(*[median] * 5) for number, median in enumerate(medians)}
    found = time_columns(rounds, Case(LayerSpec("aol", 4, 6), 2))
    assert found["median_s"] == pytest.approx(mean, rel=1e-3)
    assert found["low_s"] <= min(medians) <= max(medians) <= found["high_s"] or converged
    assert found["converged"] == converged


def test_two_runs_of_one_method_have_ratios_whose_intervals_overlap() -> None:
    """AOL's step was once 1.52 and then 1.24 times Standard's, by the same command, with no uncertainty beside either."""
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(2):
        own, base = (levels(*(level * np.exp(rng.normal(0, 0.15, 5)))) for level in (1.38, 1.0))
        ratios.append(estimate([paired(own, base)]))
    assert ratios[0].overlaps(ratios[1])
    assert all(one.low < 1.38 < one.high and one.reach > 0.1 for one in ratios)


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


def test_recorded_comparisons_are_populations_of_ratios(tmp_path: Path) -> None:
    """What both versions have in common, such as a drift, is not part of them."""
    rng = np.random.default_rng(2)
    drift, noise = np.linspace(0, 1, 24), rng.normal(0, 0.02, (2, 24))
    for name, own, level in (("base", noise[0], 0.0), ("head", noise[1], 0.5)):
        timings = [samples.timing(*[float(np.exp(level + one))] * 5) for one in drift + own]
        rounds = tuple(Round("ok", phases={"step": timing}, parts={"step": Part()}) for timing in timings)
        samples.save_run(tmp_path / name, [Record(Case(LayerSpec("aol", 4, 6), 2), len(rounds), rounds)])
    ((name, found),) = coverage.recorded(tmp_path, 20)
    assert name == "aol c4, step, ratio"
    assert found == pytest.approx((noise[1] - noise[0] - (noise[1] - noise[0]).mean()) / math.sqrt(2))
    assert not list(coverage.recorded(tmp_path, 25))
