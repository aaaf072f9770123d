"""The largest batch of a layer or network that fits into a memory, for training and for inference, found by predictions.

Peaks grow by the same bytes with each image once they are large, so two predictions give a third batch that is close to the
answer. The answer is confirmed by one prediction on each side: the batch fits, and one image more does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from lipbench import errors
from lipbench.bounds import LARGEST
from lipbench.cases import Case, columns_of
from lipbench.prediction import memory
from lipbench.quantities import Memory

COLUMNS = [
    "memory_bytes", "training_batch", "training_peak_bytes", "inference_batch", "inference_peak_bytes", "parameters_bytes",
]  # fmt: skip
"""a batch is 0 where one image does not fit, which the peak then says; missing where it could not be predicted"""
FIRST, MANY = 8, LARGEST["batch_size"]
"""second batch that is predicted, after 1; largest batch of a case"""


@dataclass(frozen=True)
class Largest:
    """The largest batch that fits, and its peak in bytes; batch 0 with the peak of one image where that does not fit."""

    batch: int
    peak_bytes: int


def largest(peak: Callable[[int], float], limit_bytes: int) -> Largest:
    """The largest batch up to `MANY` whose peak, which grows with the batch, is at most the limit."""
    low, high = 1, MANY + 1
    peaks = {1: peak(1)}
    if peaks[1] > limit_bytes:
        return Largest(0, int(peaks[1]))
    guess = FIRST
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        peaks[guess] = peak(guess)
        low, high = (guess, high) if peaks[guess] <= limit_bytes else (low, guess)
        guess = _on_the_line(peaks, low, high, limit_bytes)
    return Largest(low, int(peaks[low]))


def _on_the_line(peaks: dict[int, float], low: int, high: int, limit_bytes: int) -> int:
    """The batch at which the line through two known peaks, those on both sides if there are, meets the limit."""
    below = [batch for batch in peaks if batch <= low]
    one, other = sorted(below)[-2:] if high not in peaks else (low, high)
    slope = (peaks[other] - peaks[one]) / (other - one)
    if slope <= 0:
        return high - 1
    if slope == math.inf:
        return (low + high) // 2
    return one + int((limit_bytes - peaks[one]) / slope)


def table(cases: list[Case], limit_bytes: int) -> tuple[pd.DataFrame, list[str]]:
    """One row per case, whose batch size does not count, and one line for each case that cannot be predicted."""
    rows, problems = [], []
    for case in cases:
        try:
            rows.append(_row(case, limit_bytes))
        except errors.LipbenchError as error:
            problems.append(f"{case.spec.slug}: {error}")
    names = [*(columns_of(cases[0]) if cases else ()), *COLUMNS]
    frame = pd.DataFrame(rows, columns=[name for name in names if name != "batch_size"])
    whole = [name for name in ("channels", "kernel_size", *COLUMNS) if name in frame]
    return frame.astype(dict.fromkeys(whole, "Int64")), problems


def _row(case: Case, limit_bytes: int) -> dict[str, object]:
    known = {1: memory.memory(replace(case, batch_size=1))}

    def predicted(batch: int) -> Memory | None:
        if batch not in known:
            try:
                known[batch] = memory.memory(replace(case, batch_size=batch))
            except errors.LipbenchError:  # one image could be predicted, so these are too many to count
                return None
        return known[batch]

    row = {**columns_of(case), "memory_bytes": limit_bytes, "parameters_bytes": known[1].parameter_bytes}
    for what, peak in (("training", memory.training_peak), ("inference", memory.inference_peak)):
        if peak(known[1]) is None:
            continue
        found = largest(lambda batch, peak=peak: _or_endless(predicted(batch), peak), limit_bytes)  # type: ignore[misc]
        row |= {f"{what}_batch": found.batch, f"{what}_peak_bytes": found.peak_bytes}
    return row


def _or_endless(found: Memory | None, peak: Callable[[Memory], int | None]) -> float:
    """The peak, or infinity where it is not known."""
    size = peak(found) if found else None
    return math.inf if size is None else size


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for people: the largest batches, and what they take of the memory."""
    found = memory.named(frame)
    for what in ("training", "inference"):
        columns = frame[[f"{what}_batch", f"{what}_peak_bytes", "memory_bytes"]]
        found[f"largest batch, {what}"] = [_in_words(*row) for row in columns.itertuples(index=False, name=None)]
    return memory.narrowed(found)


def _in_words(batch: int, peak_bytes: int, limit_bytes: int) -> str:
    if pd.isna(batch):
        return "?"
    limit = memory.with_unit(limit_bytes)
    if batch == 0:
        return f"none: one image takes {memory.with_unit(peak_bytes)} of {limit}"
    return f"{'at least ' if batch == MANY else ''}{batch:,} ({memory.with_unit(peak_bytes)} of {limit})"
