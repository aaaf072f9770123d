"""The costs of each part of a network as the Answer of the verb `breakdown`, and its memory over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from lipbench_reports.cells import BYTES, COUNTS, TIMES, digits, scale, with_unit
from lipbench_reports.trainings import rows_of

from lipbench.answer import Answer
from lipbench.cases import Case, columns_of
from lipbench.prediction import memory, parts

BAR = 20
"""characters of a full bar"""
SHOWN = {
    "parameters": ("parameters_bytes", BYTES), "saved": ("saved_bytes", BYTES), "at peak": ("at_peak_bytes", BYTES),
    "MACs of a step": ("step_macs", COUNTS), "MACs of inference": ("inference_macs", COUNTS), "step": ("step_s", TIMES),
    "inference": ("inference_s", TIMES),
}  # fmt: skip
"""title of a readable column → column of the frame, and its units; the bytes share one unit"""
COLUMNS = ["path", "block", "layer", "input", "output", *parts.COLUMNS, "forward_s", "backward_s", "step_s", "inference_s"]
MEANING = (
    "parameters: bytes of weights. saved: bytes kept for the backward pass, each tensor once, for the first layer that keeps "
    "it. at peak: bytes in use at the peak of a training step, for the layer that made or owns them."
)


def answer(case: Case, counts: Mapping[str, Any] | None, times: Mapping[str, Any] | None) -> Answer:
    """The breakdown of a case from the counts and the times of `run.breakdown`; None for what is not known.

    The frame has one row per part, and a last one for what runs outside all parts, such as the optimizer's update. Times in it
    sum up to those of the whole.
    """
    if counts is None:
        return Answer(pd.DataFrame(columns=COLUMNS))
    frame = pd.DataFrame(counts["rows"])
    seconds = _seconds(times) if times else {}
    for phase in ("forward", "backward", "inference"):
        frame[f"{phase}_s"] = [seconds.get((phase, path), 0.0) if times else math.nan for path in frame["path"]]
    update = [seconds.get(("update", path), 0.0) for path in frame["path"]]
    frame["step_s"] = frame["forward_s"] + frame["backward_s"] + update
    frame = frame[COLUMNS].assign(case=case.id)
    for place, (name, value) in enumerate(columns_of(case).items()):
        frame.insert(place, name, value)
    remarks = (*(_about(times) if times else ()), *counts["remarks"], MEANING, memory.NOTES[case.device])
    return Answer(frame, _readable(frame, bool(times)), remarks)


def _seconds(times: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    return {(phase, path): float(s) for group in times.values() for phase, path, s in group["parts_s"]}


def _about(times: Mapping[str, Any]) -> Iterator[str]:
    """How the times were measured, and how their sum compares with the whole."""
    compared = []
    for name, group in times.items():
        whole, total = sum(group["whole_s"].values()), sum(s for *_, s in group["parts_s"])
        what = "a training step" if name == "training" else name
        compared.append(f"{what} {with_unit(total, TIMES)} against {with_unit(whole, TIMES)} ({total / whole - 1:+.1%})")
    turns = " and ".join(str(group["turns"]) for group in times.values())
    yield (
        f"Times: medians of {turns} iterations in one process, with a clock at every layer. Their sum, against the whole "
        f"without these clocks: {', '.join(compared)}."
    )
    if any(group["contended"] for group in times.values()):
        yield "Other processes used the machine meanwhile: the times are contended; repeat the command on a quiet machine."


def _readable(frame: pd.DataFrame, timed: bool) -> pd.DataFrame:
    """Equal layers of a block as one row, after a row with the sums of the block, and a last row with those of all."""
    blocks: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for row in rows_of(frame):
        alike = blocks.setdefault(row["block"] or row["path"], {})
        alike.setdefault((row["layer"], row["input"]), []).append(row)
    found = []
    for block, alike in blocks.items():
        if len(alike) > 1:
            found.append(_summed(block, "block", [row for equal in alike.values() for row in equal]))
        for (layer, given), equal in alike.items():
            count = f"{len(equal)} × " if len(equal) > 1 else ""
            found.append(_summed(parts.between(row["path"] for row in equal), f"{count}{layer}", equal, given))
    found.append(_summed("all", "", rows_of(frame)))
    table = pd.DataFrame(found)
    whole = "step_s" if timed else "step_macs"
    shares = table[whole] / (table[whole].iloc[-1] or 1)
    named = {name: list(table[name]) for name in ("where", "layer", "input")}
    bars = {f"share of {'the step' if timed else 'its MACs'}": [_bar(share) for share in shares]}
    return pd.DataFrame({**named, **_columns(table, timed), **bars})


def _summed(where: str, layer: str, rows: Sequence[Mapping[str, Any]], given: str = "") -> dict[str, Any]:
    """A readable row with the sums of several rows of the frame."""
    sums = {column: sum(row[column] for row in rows) for column, _ in SHOWN.values()}
    return {"where": where, "layer": layer, "input": given, **sums}


def _columns(table: pd.DataFrame, timed: bool) -> dict[str, list[str]]:
    """The quantities as texts, each in the unit that its title names; those of memory have one unit."""
    found = {}
    sizes = [value for column in ("parameters_bytes", "saved_bytes", "at_peak_bytes") for value in table[column]]
    for title, (column, units) in SHOWN.items():
        if units is TIMES and not timed:
            continue
        unit, size = scale(sizes if units is BYTES else table[column], units)
        found[", ".join(filter(None, (title, unit)))] = ["" if value == 0 else digits(value / size) for value in table[column]]
    return found


def _bar(share: float) -> str:
    return f"{'█' * round(BAR * share)} {share:.1%}".strip()


def over_time(case: Case, found: Mapping[str, Any]) -> Answer:
    """The memory before a training step (number 0) and after each operation, one row each; for people, what holds the peak."""
    frame, held = pd.DataFrame(found["moments"]), parts.grouped(pd.DataFrame(found["held"]))
    frame.insert(0, "number", range(len(frame)))
    summit = frame.iloc[int(frame["reached_bytes"].to_numpy().argmax())]
    total = int(held["size_bytes"].sum())
    readable = pd.DataFrame({
        "held at the peak": held["made_by"], "tensors": held["count"], "shape": held["shape"], "dtype": held["dtype"],
        "bytes": held["size_bytes"].map(memory.with_unit), "share": held["share"].map(_bar), "layers": held["places"],
    })  # fmt: skip
    where = f" in layer {summit['place']}" if summit["place"] else ""
    peak = (
        f"Peak of the training step: {memory.with_unit(total)}, at operation {summit['number']} of {len(frame) - 1}, "
        f"{summit['operation']}{where}, in the phase {summit['phase']}."
    )
    return Answer(frame.assign(case=case.id), readable, (peak, memory.NOTES[case.device]))
