"""The largest batch of a layer or network that fits into a memory, for training and for inference, found by predictions.

Peaks grow by the same bytes with each image once they are large, so two predictions give a third batch that is close to the
answer. The answer is confirmed by one prediction on each side: the batch fits, and one image more does not, up to the largest
batch that a case may have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
"""a batch is 0 where one image does not fit, whose peak then stands beside it; missing where that is not known"""
SECOND, MOST = 8, LARGEST["batch_size"]
"""second batch that is predicted, and the largest batch of a case"""


class _UnknownError(Exception):
    """A peak that decides is not known."""


@dataclass(frozen=True)
class Largest:
    """The largest batch that fits, and its peak in bytes; batch 0 with the peak of one image where that does not fit."""

    batch: int
    peak_bytes: int


def largest(peak: Callable[[int], float], limit_bytes: int) -> Largest:
    """The largest batch up to `MOST` whose peak, which grows with the batch, is at most the limit.

    A peak may be infinite. A guess is on the line through two known peaks, or in the middle after three guesses that did not
    halve the batches that are left.
    """
    low, high = 1, MOST + 1
    peaks = {1: peak(1)}
    if peaks[1] > limit_bytes:
        return Largest(0, int(peaks[1]))
    guess, slow = SECOND, 0
    while high - low > 1:
        left = high - low
        guess = min(max(guess, low + 1), high - 1)
        peaks[guess] = peak(guess)
        low, high = (guess, high) if peaks[guess] <= limit_bytes else (low, guess)
        slow = slow + 1 if 2 * (high - low) > left else 0
        if slow < 3:
            one, other = (low, high) if high in peaks else sorted(peaks)[-2:]
            guess = _on_the_line(peaks, one, other, limit_bytes)
        else:
            guess, slow = (low + high) // 2, 0
    return Largest(low, int(peaks[low]))


def _on_the_line(peaks: Mapping[int, float], one: int, other: int, limit_bytes: int) -> int:
    """The batch at which the line through two known peaks meets the limit."""
    slope = (peaks[other] - peaks[one]) / (other - one)
    if not 0 < slope < math.inf:
        return (one + other) // 2 if slope else MOST
    return one + int((limit_bytes - peaks[one]) / slope)


def table(cases: Sequence[Case], limit_bytes: int) -> tuple[pd.DataFrame, list[str]]:
    """One row per case, whose batch size is ignored, and one line for each case that cannot be predicted.

    There is a column `remark` if a number is missing, or if peaks do not contain everything.
    """
    rows, problems = [], []
    for case in cases:
        try:
            rows.append(_row(case, limit_bytes))
        except errors.LipbenchError as error:
            problems.append(f"{case.spec.slug}: {error}")
    names = [*(columns_of(cases[0]) if cases else ()), *COLUMNS, *(["remark"] if any(row["remark"] for row in rows) else [])]
    frame = pd.DataFrame(rows, columns=[name for name in names if name != "batch_size"])
    whole = [name for name in ("channels", "kernel_size", *COLUMNS) if name in frame]
    return frame.astype(dict.fromkeys(whole, "Int64")), problems


def _row(case: Case, limit_bytes: int) -> dict[str, object]:
    known: dict[int, Memory] = {}

    def predicted(batch: int) -> Memory:
        if batch not in known:
            known[batch] = memory.memory(replace(case, batch_size=batch))
        return known[batch]

    row: dict[str, object] = {**columns_of(case), "memory_bytes": limit_bytes}
    for what, peak in (("training", memory.training_peak), ("inference", memory.inference_peak)):
        try:
            found = _largest(predicted, peak, limit_bytes)
        except _UnknownError:
            continue
        row |= {f"{what}_batch": found.batch, f"{what}_peak_bytes": found.peak_bytes}
    remarks = dict.fromkeys(memory.remark(one) for one in known.values())
    return {**row, "parameters_bytes": next(iter(known.values())).parameter_bytes, "remark": "; ".join(filter(None, remarks))}


def _largest(predicted: Callable[[int], Memory], peak: Callable[[Memory], int | None], limit_bytes: int) -> Largest:
    """Raises `_UnknownError` where a peak is not known, and what `predicted` raises."""

    def size(batch: int) -> float:
        try:
            found = peak(predicted(batch))
        except errors.TooLargeError:
            return math.inf
        if found is None:
            raise _UnknownError
        return found

    return largest(size, limit_bytes)


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for people: the largest batches, and what they take of the memory."""
    found = memory.named(frame)
    for what in ("training", "inference"):
        columns = frame[[f"{what}_batch", f"{what}_peak_bytes", "memory_bytes"]]
        found[f"largest batch, {what}"] = [_in_words(*row) for row in columns.itertuples(index=False, name=None)]
    if "remark" in frame:
        found["remark"] = frame["remark"]
    return found


def _in_words(batch: int, peak_bytes: int, limit_bytes: int) -> str:
    if pd.isna(batch):
        return "?"
    taken = f"{memory.with_unit(peak_bytes)} of {memory.with_unit(limit_bytes)}"
    return f"{'at least ' if batch == MOST else ''}{batch:,} ({taken})" if batch else f"none: one image takes {taken}"
