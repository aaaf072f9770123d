"""Compares two runs of the same cases: which times, peaks and counts changed, and which cases fail now.

Times are compared by the logarithms of the ratios of paired rounds (`lipbench_reports.intervals`), with Student's t. A time is
SLOWER or FASTER if its ratio differs from 1 significantly, by Holm's correction over all times at the 5 % level, and by more
than a threshold: the larger of the given one and the A/A spread, which is how far the rounds of the base differ from
themselves. It is the SAME if its 95 % interval lies within the threshold, and else UNCLEAR. Too few rounds, and contended ones
that alternate, decide only where the whole interval lies beyond a factor of `FAR`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from lipbench_reports.intervals import CONFIDENCE, Estimate, Level, estimate, of_rounds, paired, used

from lipbench.analysis.statistics import levels, timings_by_phase
from lipbench.cases import Case
from lipbench.store.records import Run
from lipbench.store.rounds import HARMLESS, Record

SAME, FASTER, SLOWER, UNCLEAR = "SAME", "FASTER", "SLOWER", "UNCLEAR"
SMALLER, LARGER, DIFFERENT, FAILS, WORKS = "SMALLER", "LARGER", "DIFFERENT", "FAILS", "WORKS"
TIME, MEMORY, MACS, CONSTANT, STATUS = "time", "memory", "macs", "constant", "status"
COLUMNS = ("case", "phase", "quantity", "base", "head", "ratio", "low", "high", "pairs", "p", "verdict", "reason")
"""base, head: seconds, bytes, MACs, a Lipschitz constant, or a status; ratio: head ÷ base, with its 95 % interval; p: corrected
by Holm"""
THRESHOLD = 0.05
LEAST_PAIRS = 5
FAR, FEWEST = 3.0, 3
"""a factor that other processes do not make between rounds that alternate, and the number of pairs that must show it"""
EQUAL = 1e-6
"""relative difference up to which two exact Lipschitz constants are the same"""
SPREAD_QUANTILE = 0.95
"""share of the base's A/A ratios that the A/A spread covers"""


@dataclass(frozen=True)
class Comparison:
    """The rows in `COLUMNS`, and the threshold of the times."""

    frame: pd.DataFrame
    threshold: float
    """relative; the larger of the given one and the A/A spread"""
    spread: float
    """A/A spread: NaN where no case has four rounds"""


def compare(
    base: Run,
    head: Run,
    slower: float = THRESHOLD,
    memory: float = THRESHOLD,
    least_pairs: int = LEAST_PAIRS,
    alternating: bool = False,
) -> Comparison:
    """Compare the cases that both runs have, case by case and phase by phase.

    `slower` and `memory` are relative thresholds of times and peaks; a time with fewer than `least_pairs` pairs of quiet rounds
    is UNCLEAR, unless it is far away. `alternating` says that the rounds of both runs were measured in turns.
    """
    before, after = ({record.case: record for record in run.records} for run in (base, head))
    shared = [case for case in before if case in after]
    timed = {
        (case, phase): (mine, theirs[phase])
        for case in shared
        for theirs in [_levels(before[case])]
        for phase, mine in _levels(after[case]).items()
        if phase in theirs
    }
    spread = aa_spread([theirs for _, theirs in timed.values()])
    limit = max(slower, spread) if math.isfinite(spread) else slower
    times = {key: paired(*pair) for key, pair in timed.items()}
    corrected = holm([p_value(logs) for logs in times.values()])
    rows: list[Mapping[str, object]] = []
    for case in shared:
        rows += _status_row(before[case], after[case])
        for (key, logs), p in zip(times.items(), corrected):
            if key[0] == case:
                rows.append(_time_row(*key, *timed[key], logs, p, limit, least_pairs, alternating))
        rows += _count_rows(before[case], after[case], memory)
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)), limit, spread)


def aa_spread(measured: Sequence[Sequence[Level]]) -> float:
    """How far times differ from themselves: the 95 % quantile of |ratio − 1| between the even and the odd rounds of each."""
    found = []
    for rounds in measured:
        quiet = [math.log(one.median_s) for one in used(rounds) if one.median_s > 0]
        if len(quiet) >= 4:
            found.append(math.expm1(abs(float(np.mean(quiet[::2]) - np.mean(quiet[1::2])))))
    return float(np.quantile(found, SPREAD_QUANTILE)) if found else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979); NaN stays NaN and is not counted."""
    known = sorted((p, place) for place, p in enumerate(p_values) if math.isfinite(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def judge(found: Estimate, p: float, limit: float) -> str:
    """The verdict on a ratio, by its 95 % interval and its corrected p-value."""
    if p < 1 - CONFIDENCE and found.value > 1 + limit:
        return SLOWER
    if p < 1 - CONFIDENCE and found.value < 1 / (1 + limit):
        return FASTER
    return SAME if found.is_known and 1 / (1 + limit) <= found.low and found.high <= 1 + limit else UNCLEAR


def _levels(record: Record) -> dict[str, list[Level]]:
    return {phase: levels(timings) for phase, timings in timings_by_phase(record).items()}


def p_value(logs: Sequence[float]) -> float:
    """Two-sided, of the hypothesis that the mean is 0; NaN for fewer than two pairs."""
    if len(logs) < 2:
        return math.nan
    if np.std(logs) == 0:
        return 1.0 if logs[0] == 0 else 0.0
    from scipy import stats  # slow to import

    return float(stats.ttest_1samp(logs, 0.0).pvalue)


def _time_row(
    case: Case,
    phase: str,
    head: Sequence[Level],
    base: Sequence[Level],
    logs: Sequence[float],
    p: float,
    limit: float,
    least: int,
    alternating: bool,
) -> dict[str, object]:
    found = estimate([logs]) if logs else Estimate(math.nan)
    busy = [name for name, rounds in (("base", base), ("head", head)) if not any(one.quiet for one in rounds)]
    if busy:
        verdict = _far(found, p, limit, len(logs)) if alternating else UNCLEAR
        reason = f"other processes were busy in every round of {' and '.join(busy)}"
    elif len(logs) < least:
        counted = "1 pair" if len(logs) == 1 else f"{len(logs)} pairs"
        verdict, reason = _far(found, p, limit, len(logs)), f"{counted} of quiet rounds, and {least} are needed"
    else:
        verdict = judge(found, p, limit)
        reason = _unclear(found, limit, len(logs)) if verdict == UNCLEAR else ""
    return {
        "case": case.id, "phase": phase, "quantity": TIME, "base": _mean(base), "head": _mean(head), "ratio": found.value,
        "low": found.low, "high": found.high, "pairs": len(logs), "p": p, "verdict": verdict, "reason": reason,
    }  # fmt: skip


def change(share: float) -> str:
    """A relative change in words: "5 %", or "a factor of 41" from a doubling on."""
    return f"{100 * share:.3g} %" if share < 1 else f"a factor of {1 + share:.3g}"


def _far(found: Estimate, p: float, limit: float, pairs: int) -> str:
    """The verdict by rounds that cannot show a small change: only where the whole interval is far away."""
    far = max(FAR, 1 + limit)
    is_far = pairs >= FEWEST and found.is_known and (found.low > far or found.high < 1 / far)
    return judge(found, p, limit) if is_far else UNCLEAR


def _unclear(found: Estimate, limit: float, pairs: int) -> str:
    """Why an interval decides nothing, and with about how many pairs it would: its width falls with their root.

    It decides when it no longer contains the threshold, or, where the ratio is close to that, when it is half as wide.
    """
    reason = f"the interval is not within {'± ' if limit < 1 else ''}{change(limit)}"
    half, away = math.log1p(found.reach), abs(math.log(found.value))
    allowed = max(abs(math.log1p(limit) - away), math.log1p(limit) / 2)
    if not math.isfinite(half) or allowed == 0:
        return reason
    enough = max(pairs + 1, math.ceil(pairs * (half / allowed) ** 2))
    return f"{reason}; about {enough} pairs would decide"


def _mean(rounds: Sequence[Level]) -> float:
    return of_rounds(rounds).value


def _status_row(base: Record, head: Record) -> list[Mapping[str, object]]:
    """A row where a case began to fail or to work."""
    before, after = base.status in HARMLESS, head.status in HARMLESS
    if before == after:
        return []
    return [{"case": head.case.id, "phase": "", "quantity": STATUS, "base": base.status, "head": head.status, "pairs": 1,
             "verdict": WORKS if after else FAILS, "reason": head.reason}]  # fmt: skip


def _count_rows(base: Record, head: Record, threshold: float) -> Iterator[Mapping[str, object]]:
    """Rows for the peaks of memory, which the threshold judges, and for MACs and exact constants, which must be equal."""
    peaks = [
        {phase: peak.total_bytes for phase, peak in one.memory.peaks.items()} if one.memory else {} for one in (base, head)
    ]
    counts = [one.macs.phases if one.macs else {} for one in (base, head)]
    for quantity, (before, after) in ((MEMORY, peaks), (MACS, counts)):
        for phase in before:
            if phase not in after:
                continue
            ratio = after[phase] / before[phase] if before[phase] else 1.0 if after[phase] == before[phase] else math.inf
            if quantity == MACS:
                verdict = SAME if after[phase] == before[phase] else DIFFERENT
            else:
                verdict = LARGER if ratio > 1 + threshold else SMALLER if ratio < 1 / (1 + threshold) else SAME
            yield _exact_row(head.case, phase, quantity, before[phase], after[phase], ratio, verdict)
    constants = [_exact_constant(one) for one in (base, head)]
    if all(map(math.isfinite, constants)):
        old, new = constants
        verdict = SAME if abs(new - old) <= EQUAL * max(old, new) else DIFFERENT
        yield _exact_row(head.case, "", CONSTANT, old, new, new / old if old else math.nan, verdict)


def _exact_row(
    case: Case, phase: str, quantity: str, base: float, head: float, ratio: float, verdict: str
) -> Mapping[str, object]:
    return {"case": case.id, "phase": phase, "quantity": quantity, "base": base, "head": head, "ratio": ratio, "low": ratio,
            "high": ratio, "pairs": 1, "verdict": verdict, "reason": ""}  # fmt: skip


def _exact_constant(record: Record) -> float:
    """The Lipschitz constant in evaluation with the weights of the case; NaN where only a bound is known."""
    bounds = record.certificate.evaluation if record.certificate else ()
    is_sure = bool(bounds) and bounds[0].uncertainty <= EQUAL * bounds[0].largest
    return bounds[0].largest if bounds and bounds[0].kind == "exact" and is_sure else math.nan
