"""Compare rounds in forked processes with rounds in started processes, and started ones with each other.

`python -m bench.fork_agreement [--method standard,aol] [--channels 32] [--turns 11] [--threads 1]` measures each case in turns
of three processes: one forked and two started, in an order that rotates with each turn. The datum of a round is its median. For
each phase it prints the ratio forked ÷ started with its 95 % interval, the same of started ÷ started (A/A), and
the spread of rounds of each kind. Exit code 1 if forked and started rounds differ in some phase, by a permutation test over all
phases at once at the level `LEVEL`.

Each forked process comes from a server of its own, as rounds of one case do.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from lipbench.cases import Case, LayerSpec, Limits
from lipbench.quantities import GROUPS, PHASES
from lipbench.run.local import Local
from lipbench.run.processes import FORK, START

LEVEL = 0.002
"""probability of a false positive; ten turns can reach it, with 2 of 2^10 changes of sign"""
LIMITS = Limits(phase_seconds=0.2)
KINDS = ("forked", "started", "again")
"""the second started process"""

Medians = dict[str, list[float]]
"""phase → median seconds of each turn"""


def measure(case: Case, turns: int, limits: Limits = LIMITS, kinds: Sequence[str] = KINDS) -> dict[str, Medians]:
    """Kind → phase → medians. Raises `RuntimeError` for a case that fails."""
    found: dict[str, Medians] = {kind: {} for kind in kinds}
    for turn in range(turns):
        first = turn % len(kinds)
        for kind in (*kinds[first:], *kinds[:first]):
            with Local(FORK if kind == "forked" else START) as local:
                one = local.run_round(case, limits, tuple(GROUPS))
            if one.status != "ok" or not one.phases:
                raise RuntimeError(f"{case.id}: {one.status}: {one.reason}")
            for phase, timing in one.phases.items():
                found[kind].setdefault(phase, []).append(statistics.median(timing.samples_s))
    return found


def differences(one: Medians, other: Medians) -> dict[str, np.ndarray]:
    """Phase → logarithms of the ratios of each turn."""
    return {phase: np.log(np.array(one[phase]) / np.array(other[phase])) for phase in PHASES if phase in one}


def probability(pairs: Mapping[str, np.ndarray]) -> float:
    """The p-value of a permutation test: the probability of ratios at least so far from 1, if the kinds are equal.

    Permutations change the sign of whole turns. The statistic is the largest |t| of a phase, so no correction for many phases
    is needed. All changes of sign are tried if these are at most 2^14, otherwise that many at random. The result is never 0,
    because the pairs themselves are one of them.
    """
    table = np.array(list(pairs.values()))
    turns = table.shape[1]
    if turns <= 14:
        signs = np.array(list(itertools.product((1, -1), repeat=turns)))
    else:
        signs = np.vstack([np.ones(turns), np.random.default_rng(0).choice((1, -1), (2**14 - 1, turns))])
    means = signs @ table.T / turns
    variances = np.maximum((table**2).mean(axis=1) - means**2, 1e-30)  # a change of sign does not change the squares
    largest = np.abs(means / np.sqrt(variances)).max(axis=1)
    return float((largest >= largest[0] * (1 - 1e-12)).mean())


def interval(logarithms: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean of ratios and the ends of its 95 % interval, by Student's t."""
    mean, error = float(logarithms.mean()), float(stats.sem(logarithms))
    reach = float(stats.t.ppf(0.975, len(logarithms) - 1)) * error
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def spread(medians: Sequence[float]) -> float:
    """Relative standard deviation of rounds."""
    return float(np.log(medians).std(ddof=1))


def report(case: Case, found: Mapping[str, Medians]) -> float:
    """Print a table of a case and return its p-value."""
    pairs, same = differences(found["forked"], found["started"]), differences(found["again"], found["started"])
    print(f"{case.id}, {len(next(iter(pairs.values())))} turns")
    print(f"  {'phase':16} {'started':>10}  {'forked ÷ started':24} {'started ÷ started':24} {'spread of rounds':>16}")
    for phase, ratios in pairs.items():
        quoted = ["{:.3f} ({:.3f}–{:.3f})".format(*interval(one)) for one in (ratios, same[phase])]
        spreads = " / ".join(f"{100 * spread(found[kind][phase]):.1f} %" for kind in ("forked", "started"))
        started_ms = 1e3 * statistics.median(found["started"][phase])
        print(f"  {phase:16} {started_ms:7.3f} ms  {quoted[0]:24} {quoted[1]:24} {spreads:>16}")
    chance, chance_of_same = probability(pairs), probability(same)
    print(f"  largest difference: p = {chance:.4f} of forked and started, {chance_of_same:.4f} of started twice", flush=True)
    return chance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="standard,aol,soc")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    chances = []
    for method in given.method.split(","):
        spec = LayerSpec(method, given.channels, given.image_size)
        case = Case(spec, given.batch_size, device=given.device, threads=given.threads)
        chances.append(report(case, measure(case, given.turns)))
    sys.exit(any(chance < LEVEL / len(chances) for chance in chances))


if __name__ == "__main__":
    main()
