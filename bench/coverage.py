"""Show how often the 95 % interval over rounds contains the true value, and how often a comparison is wrong.

`python -m bench.coverage [RUN ...] [--rounds 5] [--draws 4000]` draws rounds with replacement from the recorded rounds of runs
with at least twenty rounds per case, and from invented distributions. The true value is known, because it is the mean of the
population. It prints a row per population: the coverage of the interval of a time and of a ratio; A/A comparisons called
different; and slowdowns of 10 % called SLOWER, both with `--pairs` rounds and Holm's correction over `--tests` comparisons.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from lipbench_reports.intervals import Estimate, estimate
from scipy import stats

from lipbench.analysis import comparison
from lipbench.analysis.statistics import levels, timings_by_phase
from lipbench.store.records import load_run

LEAST_ROUNDS = 20


def invented(rng: np.random.Generator, size: int = 10_000) -> Iterator[tuple[str, np.ndarray]]:
    """Populations of logarithms of round medians: noise of 2 %, two speeds by memory layout, and a heavy tail."""
    yield "normal, 2 %", rng.normal(0, 0.02, size)
    yield "two speeds, 10 % apart", rng.normal(0, 0.01, size) + 0.1 * (rng.random(size) < 0.3)
    yield "heavy tail", rng.standard_t(4, size) * 0.015


def recorded(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Logarithms of the quiet round medians of every case and phase with at least `LEAST_ROUNDS`."""
    for record in load_run(run).records:
        for phase, timings in timings_by_phase(record).items():
            quiet = np.array([math.log(one.median_s) for one in levels(timings) if one.quiet])
            if len(quiet) >= LEAST_ROUNDS:
                yield f"{record.case.spec.method} c{record.case.spec.channels}, {phase}", quiet


def covered(population: np.ndarray, rounds: int, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """Shares of draws whose interval contains the true time, and the true ratio 1 of two draws."""
    truth = math.exp(population.mean())
    one, other = (rng.choice(population, (draws, rounds)) for _ in range(2))
    return (
        float(np.mean([_contains(estimate([logs]), truth) for logs in one])),
        float(np.mean([_contains(estimate([logs]), 1.0) for logs in one - other])),
    )


def _contains(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


def verdicts(
    population: np.ndarray, pairs: int, tests: int, draws: int, slowdown: float, rng: np.random.Generator
) -> list[str]:
    """Verdicts of `draws` comparisons with a head that is slower by `slowdown`, as if each were one of `tests`."""
    found = []
    for logs in rng.choice(population, (draws, pairs)) - rng.choice(population, (draws, pairs)) + math.log1p(slowdown):
        p = min(1.0, tests * float(stats.ttest_1samp(logs, 0.0).pvalue))
        found.append(comparison.judge(estimate([logs]), p, comparison.THRESHOLD))
    return found


def table(populations: Iterator[tuple[str, np.ndarray]], rounds: int, pairs: int, tests: int, draws: int) -> pd.DataFrame:
    """One row per population, shares in per cent."""
    rng = np.random.default_rng(0)
    rows = []
    for name, logs in populations:
        time, ratio = covered(logs, rounds, draws, rng)
        same, slow = (verdicts(logs, pairs, tests, draws // 4, slowdown, rng) for slowdown in (0.0, 0.1))
        wrong = sum(one in (comparison.SLOWER, comparison.FASTER) for one in same) / len(same)
        rows.append((name, 100 * time, 100 * ratio, 100 * wrong, 100 * slow.count(comparison.SLOWER) / len(slow)))
    return pd.DataFrame(rows, columns=["rounds of", "time covered", "ratio covered", "A/A different", "10 % SLOWER"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    for name, default in (("rounds", 5), ("pairs", 11), ("tests", 144), ("draws", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    populations = [*invented(np.random.default_rng(1)), *(one for run in options.runs for one in recorded(run))]
    found = table(iter(populations), options.rounds, options.pairs, options.tests, options.draws)
    print(found.round(1).to_string(index=False))
    print(found.drop(columns="rounds of").mean().round(2).to_string())


if __name__ == "__main__":
    main()
