"""Estimates over rounds with 95 % intervals: times of one case, and ratios of two cases paired by round.

The data are the medians of the rounds, since processes are the replicates. Estimates of times are geometric means, with
Student's t on the logarithms. `python -m bench.coverage` shows how often such an interval contains the true value. Shares, such
as accuracies over several seeds, have arithmetic means.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Level:
    """The median of one phase in one round."""

    round: int
    """number of the round; rounds of the same number were measured after one another"""
    median_s: float
    quiet: bool = True
    """whether no other process was busy"""


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % interval; the ends are NaN where there are too few replicates."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def is_known(self) -> bool:
        """Whether the interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def reach(self) -> float:
        """Half the width of the interval relative to the value; NaN where it is unknown."""
        return math.sqrt(self.high / self.low) - 1 if self.is_known and self.low > 0 else math.nan

    def overlaps(self, other: Estimate) -> bool:
        """Whether two intervals have a common value, or one of them is unknown."""
        return not (self.low > other.high or other.low > self.high)


def estimate(groups: Sequence[Sequence[float]]) -> Estimate:
    """The geometric mean over groups, such as shapes, of geometric means over rounds.

    `groups` holds logarithms. Variances of the groups add up, with the degrees of freedom of Welch and Satterthwaite.
    """
    arrays = [np.asarray(group, dtype=float) for group in groups]
    mean = float(np.mean([array.mean() for array in arrays]))
    if any(len(array) < 2 for array in arrays):
        return Estimate(math.exp(mean))
    variances = np.array([array.var(ddof=1) / len(array) for array in arrays]) / len(arrays) ** 2
    total = float(variances.sum())
    if total == 0:
        return Estimate(math.exp(mean), math.exp(mean), math.exp(mean))
    freedom = total**2 / float(sum(own**2 / (len(array) - 1) for own, array in zip(variances, arrays)))
    reach = _student(freedom) * math.sqrt(total)
    return Estimate(*(math.exp(min(700.0, max(-700.0, end))) for end in (mean, mean - reach, mean + reach)))


@functools.lru_cache
def _student(freedom: float) -> float:
    """The quantile of Student's t for an interval; `scipy.stats.t` calls the same function, and is slow to import."""
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


FEWEST_SEEDS = 3
"""number of seeds from which a mean over seeds has an interval; that of two is 13 standard errors wide"""


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The arithmetic mean with its 95 % interval by Student's t, which is unknown for fewer than `FEWEST_SEEDS`; NaN for none.

    Missing values are left out.
    """
    array = np.asarray([value for value in values if math.isfinite(value)], dtype=float)
    if not len(array):
        return Estimate(math.nan)
    mean = float(array.mean())
    if len(array) < FEWEST_SEEDS:
        return Estimate(mean)
    reach = _student(len(array) - 1) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(mean, mean - reach, mean + reach)


def used(levels: Sequence[Level]) -> list[Level]:
    """The quiet rounds; all rounds if none was quiet."""
    return [one for one in levels if one.quiet] or list(levels)


def of_rounds(levels: Sequence[Level]) -> Estimate:
    """The time of a case: the geometric mean of its quiet rounds, or of all if none was quiet; NaN without a time above 0."""
    logs = [math.log(one.median_s) for one in used(levels) if one.median_s > 0]
    return estimate([logs]) if logs else Estimate(math.nan)


def paired(own: Sequence[Level], base: Sequence[Level]) -> list[float]:
    """Logarithms of the ratios of two cases, one per pair of rounds.

    Rounds of the same number are paired first. The others, such as repeated rounds, are paired in their order.
    """
    mine, theirs = ({one.round: one.median_s for one in used(levels)} for levels in (own, base))
    shared = sorted(set(mine) & set(theirs))
    left = zip(*([levels[number] for number in sorted(set(levels) - set(shared))] for levels in (mine, theirs)))
    pairs = [*((mine[number], theirs[number]) for number in shared), *left]
    return [math.log(one / other) for one, other in pairs if one > 0 and other > 0]
