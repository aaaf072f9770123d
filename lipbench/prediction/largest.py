"""The largest batch of a layer or network that fits into a memory, for training and for inference, found by predictions.

For a layer of this package on a GPU, `growth` gives the peaks of all batch sizes from two predictions: one on meta tensors at a
fixed batch, and one on fake tensors at the answer that this lets expect. Sizes of one method share the second. For everything
else, peaks grow by about the same bytes with each image, so two predictions give a third batch that is close to the answer,
which is confirmed by one prediction on each side.

Either way the batch fits, and one image more does not, up to the largest batch that a case may have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from lipbench import errors, registry
from lipbench.bounds import LARGEST
from lipbench.cases import Case, columns_of
from lipbench.meters import memory as memory_meter
from lipbench.meters.saved import bytes_of
from lipbench.prediction import growth, memory
from lipbench.prediction.growth import Growth, Run
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


def table(cases: Sequence[Case], limit_bytes: int, known: list[Growth] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """One row per case, whose batch size is ignored, and one line for each case that cannot be predicted.

    There is a column `remark` if a number is missing, or if peaks do not contain everything. `known` are the growths found so
    far, also by earlier calls.
    """
    rows, problems = [], []
    known = [] if known is None else known
    for case in cases:
        try:
            rows.append(_row(case, limit_bytes, known))
        except errors.LipbenchError as error:
            problems.append(f"{case.spec.slug}: {error}")
    names = [*(columns_of(cases[0]) if cases else ()), *COLUMNS, *(["remark"] if any(row["remark"] for row in rows) else [])]
    frame = pd.DataFrame(rows, columns=[name for name in names if name != "batch_size"])
    whole = [name for name in ("channels", "kernel_size", *COLUMNS) if name in frame]
    return frame.astype(dict.fromkeys(whole, "Int64")), problems


PEAKS = {"training": memory.training_peak, "inference": memory.inference_peak}
"""what a batch is sought for → the peak that decides"""


def _row(case: Case, limit_bytes: int, known: list[Growth]) -> dict[str, object]:
    row: dict[str, object] = {**columns_of(case), "memory_bytes": limit_bytes}
    found: dict[str, Largest] = {}
    if case.device == "cuda" and case.spec.method in registry.METHODS:
        found, row["parameters_bytes"] = _by_growth(case, limit_bytes, known)
    predicted: dict[int, Memory] = {}
    for what in PEAKS:
        if one := found.get(what) or _by_predictions(case, what, limit_bytes, predicted):
            row |= {f"{what}_batch": one.batch, f"{what}_peak_bytes": one.peak_bytes}
    if predicted:
        row["parameters_bytes"] = next(iter(predicted.values())).parameter_bytes
    remarks = dict.fromkeys(map(memory.remark, predicted.values()))
    return {**row, "remark": "; ".join(filter(None, remarks))}


def _by_growth(case: Case, limit_bytes: int, known: list[Growth]) -> tuple[dict[str, Largest], int]:
    """The answers for training and for inference where more than one image decides, and the bytes of the parameters."""
    with memory.outlined(replace(case, batch_size=growth.SMALLEST)) as workload:
        memory_meter.give_optimizer_state(workload)
        runs = {what: growth.run(workload, what, growth.FIRST) for what in PEAKS}
        parameter_bytes = bytes_of(workload.module.parameters())
    grown = _confirmed(case, {what: run for what, run in runs.items() if run}, limit_bytes, known)
    found = {what: largest(one.peak, limit_bytes) for what, one in grown.items()}
    return {what: one for what, one in found.items() if one.batch >= growth.SMALLEST}, parameter_bytes


def _confirmed(case: Case, runs: Mapping[str, Run], limit_bytes: int, known: list[Growth]) -> dict[str, Growth]:
    """The growth that each run lets expect, where a second run, on fake tensors and at the answer, agrees with it.

    The second run is left out where a known growth, such as that of a smaller network of the method, is of the same form.
    """
    found = {what: growth.guess(run) for what, run in runs.items()}
    new = {what: guessed for what, guessed in found.items() if not any(map(guessed.is_like, known))}
    if not new:
        return found
    with memory.imagined(replace(case, batch_size=growth.SMALLEST)) as workload:
        memory_meter.give_optimizer_state(workload)
        for what, guessed in new.items():
            near = max(growth.SMALLEST, largest(guessed.peak, limit_bytes).batch)
            second = growth.run(workload, what, near if near != growth.FIRST else near + 1)
            confirmed = None if second is None else growth.between(runs[what], second)
            if confirmed is None:
                del found[what]
            else:
                found[what] = confirmed
                known.append(confirmed)
    return found


def _by_predictions(case: Case, what: str, limit_bytes: int, known: dict[int, Memory]) -> Largest | None:
    """The answer by predictions, which are added to those that are known by their batch sizes; None where a peak is not known.

    Raises what a prediction raises.
    """

    def size(batch: int) -> float:
        try:
            if batch not in known:
                known[batch] = memory.memory(replace(case, batch_size=batch))
        except errors.TooLargeError:
            return math.inf
        found = PEAKS[what](known[batch])
        if found is None:
            raise _UnknownError
        return found

    try:
        return largest(size, limit_bytes)
    except _UnknownError:
        return None


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
