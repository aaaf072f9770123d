"""What `torch.compile` changes: each method uncompiled and compiled, and after how many steps compiling pays."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lipbench_reports.cells import TIMES, Cell, Column, Table, digits, heads, numbers, ratio, table
from lipbench_reports.pairs import Pair, mean_changes, pairs
from lipbench_reports.prepared import Prepared

TRAINING = ("forward", "backward", "step")
EVALUATION = ("inference", "first_inference")
BYTES_CHANGED = (
    ("step", "peak_memory_bytes", "Training peak"), ("inference", "peak_memory_bytes", "Inference peak"),
    ("step", "saved_memory_bytes", "Saved"),
)  # fmt: skip
WORTH_SAYING = 0.10
"""Smaller changes are not mentioned: the rounds of one case may differ by as much without a warning."""


def changes(ready: Prepared) -> Table | None:
    """Times, peaks and compile times, one row per case that was measured both ways; None if there is none."""
    found = pairs(ready, "compiled", False, True)
    if not found:
        return None
    columns = heads([(one.series, one.shape) for one in found], ready.labels)
    timed = ("step", "inference")
    every = [value for one in found for phase in timed for value in one.values(phase, "median_s")]
    for phase, title in zip(timed, ("Step", "Inference")):
        marks = [one.mark(phase) for one in found]
        written, compiled = zip(*(one.values(phase, "median_s") for one in found))
        columns += [
            numbers(f"{title}, as written", written, TIMES, marks, every),
            numbers(f"{title}, compiled", compiled, TIMES, marks, every),
            (Column(f"{title}, ÷"), [ratio(one.change(phase, "median_s"), mark) for one, mark in zip(found, marks)]),
        ]
    columns += [
        numbers("Compiling, training", [_compile_s(one, TRAINING) for one in found], TIMES[:1]),
        numbers("Compiling, inference", [_compile_s(one, EVALUATION) for one in found], TIMES[:1]),
        (Column("Pays after", "steps"), [_steps(_steps_to_pay(one), one.mark("step")) for one in found]),
    ]
    for phase, column, title in BYTES_CHANGED:
        columns.append((Column(f"{title}, ÷"), [ratio(one.change(phase, column)) for one in found]))
    return table("What torch.compile changes", [one for one in columns if any(cell.sort is not None for cell in one[1])])


def _steps(steps: float, mark: str) -> Cell:
    if math.isnan(steps):
        return Cell()
    rounded = float(f"{steps:.2g}")  # a time over a difference of times is no more precise than this
    return Cell("never" if math.isinf(steps) else digits(rounded), steps, mark=mark)


def verdict(ready: Prepared) -> list[str]:
    """Sentences on how compiling changed the time of a training step and of inference."""
    sentences = []
    rows = ready.rows
    watched = pairs(ready.narrowed(rows[~rows["unwatched"]]), "compiled", False, True)
    for phase, deed in (("step", "a training step"), ("inference", "inference")):
        means = mean_changes(watched, phase, "median_s", ready.labels)
        if len(means) > 1 and means[-1][0] / means[0][0] > 1 + WORTH_SAYING:
            (low, least), (high, most) = means[0], means[-1]
            sentences.append(f"Compiled by torch.compile, {deed} takes from {low:.3g} ({least}) to {high:.3g} ({most}) times "
                             "as long as uncompiled.")  # fmt: skip
        elif means:
            sentences.append(f"Compiled by torch.compile, {deed} takes {means[0][0]:.3g} times as long as uncompiled.")
    without = int(ready.failures["compiled"].sum())
    return [*sentences, *([f"{without} compiled cases gave no numbers."] if without > 1 else [])]


def _compile_s(one: Pair, phases: Sequence[str]) -> float:
    """Seconds spent compiling for these phases."""
    found = one.changed.loc[one.changed.index.isin(phases), "compile_s"].dropna()
    return math.nan if found.empty else float(found.sum())


def _steps_to_pay(one: Pair) -> float:
    """Training steps after which compiling has saved more time than it cost; infinite where it saves none."""
    written, compiled = one.values("step", "median_s")
    seconds = _compile_s(one, TRAINING)
    if not math.isfinite(written + compiled + seconds):
        return math.nan
    return math.ceil(seconds / (written - compiled)) if compiled < written else math.inf
