"""Show how often the 95 % interval over rounds contains the true value, and how often a comparison is wrong.

`python -m bench.coverage [RUN ...] [--rounds 5] [--draws 4000]` draws rounds with replacement from the recorded rounds of runs
with at least `--least` rounds per case, and from invented distributions. The true value is known, because it is the mean of the
population. It prints a row per population: the coverage of the interval of a time and of a ratio, in per cent; how many of 200
A/A comparisons are called different; and how many of 100 slowdowns by 10 % are SLOWER, both with `--pairs` rounds and Holm's
correction over `--tests` comparisons. A folder of `profile --against` has two runs, OUT/base and OUT/head; their paired ratios
are populations.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from lipbench_reports.intervals import Estimate, Level, estimate, paired
from scipy import stats

from lipbench import external
from lipbench.analysis import comparison, counterparts
from lipbench.analysis.statistics import levels, timings_by_phase
from lipbench.store.records import load_run
from lipbench.store.rounds import Record

LEAST_ROUNDS = 20
AA, SLOWED = "A/A different of 200", "10 % SLOWER of 100"


def invented(rng: np.random.Generator, size: int = 10_000) -> Iterator[tuple[str, np.ndarray]]:
    """Populations of logarithms of round medians: noise of 2 %, two speeds by memory layout, and a heavy tail."""
    yield "normal, 2 %", rng.normal(0, 0.02, size)
    yield "two speeds, 10 % apart", rng.normal(0, 0.01, size) + 0.1 * (rng.random(size) < 0.3)
    yield "heavy tail", rng.standard_t(4, size) * 0.015


def recorded(path: Path, least: int) -> Iterator[tuple[str, np.ndarray]]:
    """Logarithms of the quiet round medians of every case and phase with at least `least`.

    Of both runs of a comparison, those of the paired ratios, less their mean, since versions differ by a constant factor. They
    are divided by √2: the ratio of two draws has twice the variance of a draw.
    """
    if not (path / "base").is_dir():
        for record in load_run(path).records:
            for phase, found in _levels(record).items():
                quiet = np.array([math.log(one.median_s) for one in found if one.quiet])
                if len(quiet) >= least:
                    yield _name(record, phase), quiet
        return
    head = load_run(path / "head")
    base = {one.case: _levels(one) for one in counterparts.matched(load_run(path / "base"), head)[0].records}
    for record in head.records:
        for phase, own in _levels(record).items():
            logs = np.array(paired(own, base.get(record.case, {}).get(phase, [])))
            if len(logs) >= least:
                yield f"{_name(record, phase)}, ratio", (logs - logs.mean()) / math.sqrt(2)


def _levels(record: Record) -> dict[str, list[Level]]:
    return {phase: levels(timings) for phase, timings in timings_by_phase(record).items()}


def _name(record: Record, phase: str) -> str:
    return f"{external.title(record.case.spec.method)} c{record.case.spec.channels}, {phase}"


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
    """One row per population."""
    rng = np.random.default_rng(0)
    rows = []
    for name, logs in populations:
        time, ratio = covered(logs, rounds, draws, rng)
        same, slow = (verdicts(logs, pairs, tests, draws // 4, slowdown, rng) for slowdown in (0.0, 0.1))
        wrong = sum(one in (comparison.SLOWER, comparison.FASTER) for one in same) / len(same)
        rows.append((name, 100 * time, 100 * ratio, 200 * wrong, 100 * slow.count(comparison.SLOWER) / len(slow)))
    return pd.DataFrame(rows, columns=["rounds of", "time covered, %", "ratio covered, %", AA, SLOWED])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    for name, default in (("rounds", 5), ("pairs", 11), ("tests", 144), ("draws", 4000), ("least", LEAST_ROUNDS)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    populations = [*invented(np.random.default_rng(1)), *(one for run in options.runs for one in recorded(run, options.least))]
    found = table(iter(populations), options.rounds, options.pairs, options.tests, options.draws)
    print(found.round(1).to_string(index=False))
    print(found.drop(columns="rounds of").mean().round(2).to_string())


if __name__ == "__main__":
    main()
