"""What recomputation changes: each method as written and computed again in the backward pass, and the bytes that time buys."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lipbench_reports.cells import BYTES, TIMES, Cell, Column, Table, digits, heads, numbers, ratio, scale, table, with_unit
from lipbench_reports.pairs import Pair, mean_changes, pairs
from lipbench_reports.prepared import Prepared

TIME, PEAK = "median_s", "peak_memory_bytes"


def changes(ready: Prepared) -> Table | None:
    """Times and peaks of a training step, one row per case that was measured both ways; None if there is none."""
    found = pairs(ready, "recomputed", False, True)
    if not found:
        return None
    columns = heads([(one.series, one.shape) for one in found], ready.labels)
    marks = [one.mark("step") for one in found]
    for title, column, units in (("Step", TIME, TIMES), ("Training peak", PEAK, BYTES)):
        both = [one.values("step", column) for one in found]
        every = [value for pair in both for value in pair]
        shown = marks if column == TIME else [""] * len(found)
        columns += [
            numbers(f"{title}, {way}", own, units, shown, every) for way, own in zip(("as written", "recomputed"), zip(*both))
        ]
        columns.append((Column(f"{title}, ÷"), [ratio(one.change("step", column), mark) for one, mark in zip(found, shown)]))
    columns.append(_gains(found, marks))
    return table("What recomputation changes", [one for one in columns if any(cell.sort is not None for cell in one[1])])


def bytes_per_second(one: Pair) -> float:
    """Bytes that the training peak is lower by, for each further second of a step; infinite where the step is no slower.

    0 where the peak is no lower; NaN where a time or a peak is unknown.
    """
    before_s, after_s = one.values("step", TIME)
    before_bytes, after_bytes = one.values("step", PEAK)
    if not math.isfinite(before_s + after_s + before_bytes + after_bytes):
        return math.nan
    if after_bytes >= before_bytes:
        return 0.0
    return (before_bytes - after_bytes) / (after_s - before_s) if after_s > before_s else math.inf


def _gains(found: Sequence[Pair], marks: Sequence[str]) -> tuple[Column, list[Cell]]:
    values = [bytes_per_second(one) for one in found]
    known = [value for value in values if 0 < value < math.inf]
    unit, size = scale(known, BYTES)
    cells = [_gain(value, size, mark) for value, mark in zip(values, marks)]
    return Column("Saved per extra second", unit if known else ""), cells


def _gain(value: float, size: float, mark: str) -> Cell:
    if math.isnan(value):
        return Cell()
    words = {0.0: "nothing", math.inf: "no extra time"}
    return Cell(words.get(value, digits(value / size)), value, mark=mark)


def verdict(ready: Prepared) -> list[str]:
    """Sentences on how recomputation changed a training step, and which method it saves most for."""
    watched = pairs(ready.narrowed(ready.rows[~ready.rows["unwatched"]]), "recomputed", False, True)
    sentences = []
    for column, subject in ((TIME, "a training step takes"), (PEAK, "its memory is")):
        if means := mean_changes(watched, "step", column, ready.labels):
            (low, least), (high, most) = means[0], means[-1]
            is_one = f"{low:.3g}" == f"{high:.3g}"
            span = f"{low:.3g}" if is_one else f"from {low:.3g} ({least}) to {high:.3g} ({most})"
            sentences.append(f"{subject} {span} times {'as long' if column == TIME else 'as large'}")
    said = [f"Computed again in the backward pass, {', and '.join(sentences)} as without."] if sentences else []
    best = max((one for one in watched if 0 < bytes_per_second(one) < math.inf), key=bytes_per_second, default=None)
    if best is not None and len(watched) > 1:
        where = f" at {best.shape}" if ready.has_several_shapes else ""
        most = f"{ready.labels[best.series]}{where}, {with_unit(bytes_per_second(best), BYTES)}"
        said.append(f"Most bytes per extra second of a step are saved by {most}.")
    without = int(ready.failures["recomputed"].sum())
    return [*said, *([f"{without} recomputed cases gave no numbers."] if without > 1 else [])]
