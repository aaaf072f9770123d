"""What each part of a network costs in memory and MACs, and what holds the memory of a training step, from shapes alone."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from lipbench.cases import Case
from lipbench.meters import macs, saved
from lipbench.meters import memory as memory_meter
from lipbench.meters.history import BEFORE, History, Moment
from lipbench.meters.places import BETWEEN, Places
from lipbench.prediction import memory
from lipbench.workload import Workload

COLUMNS = ["parameters_bytes", "saved_bytes", "at_peak_bytes", "step_macs", "inference_macs"]
"""Of each part, the bytes of its parameters; the bytes that it keeps for the backward pass, each storage once, for the first
part that keeps it; the bytes that it made or owns of those in use at the peak of a training step; real MACs."""
MOST_HOLDERS = 5
"""number of lines about what holds the memory at a peak"""
BETWEEN_PARTS = "(between layers)"
"""the layer of the row for what runs outside all parts, such as the optimizer"""


def counted(case: Case) -> tuple[pd.DataFrame, list[str]]:
    """One row per part, in the order of the module, and a last one for what belongs to no part; and remarks.

    Columns: path, block (the first part of the path), layer (its class), input and output (sizes without the batch), and
    `COLUMNS`. Raises `LipbenchError` where the case cannot be predicted.
    """
    with memory.imagined(case) as workload, Places(workload.module) as places:
        found, unsupported = _macs(workload, places)  # whose step also makes the optimizer's state
        tracker = _tracked_step(workload, places)
        kept = saved.saved_by_place(workload.forward, places)
        held: dict[str, int] = {}
        for one in tracker.at_peak():
            held[one.place] = held.get(one.place, 0) + one.size_bytes
        owned = _parameter_bytes(workload, places)
        rows = [
            {
                **_named(path, places), "parameters_bytes": owned.get(path, 0), "saved_bytes": kept.get(path, 0),
                "at_peak_bytes": held.get(path, 0), **{f"{what}_macs": one.get(path, 0) for what, one in found.items()},
            }
            for path in (*places.parts, BETWEEN)
        ]  # fmt: skip
    missing = [f"Operations without a formula, not counted as MACs: {', '.join(unsupported)}."] if unsupported else []
    names = ["path", "block", "layer", "input", "output", *COLUMNS]
    return pd.DataFrame(rows, columns=names), [*_about_peak(tracker), *missing]


def over_time(case: Case) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The memory before a training step and after each of its operations, and what was in use at its peak.

    The columns are the fields of `Moment` and of `Held`. Raises `LipbenchError` where the case cannot be predicted.
    """
    with memory.imagined(case) as workload, Places(workload.module) as places:
        memory_meter.make_optimizer_state(workload)
        tracker = _tracked_step(workload, places)
    held = pd.DataFrame([asdict(one) for one in tracker.at_peak()])
    return pd.DataFrame([asdict(one) for one in tracker.moments]), held


def _tracked_step(workload: Workload, places: Places) -> History:
    """The history of a training step after the first, whose peak is the one that `memory.memory` predicts."""
    tracker = History(places.now, *memory.allocator(workload.case.device))
    names = _names(workload, places)
    for tensor in memory_meter.held(workload):
        tracker.hold(tensor, *names[id(tensor)])
    workload.prepare_training()
    gc.collect(1)  # as before every phase of which a peak is predicted
    tracker.moments.append(Moment(BEFORE, BETWEEN, "", tracker.in_use, tracker.in_use))
    with tracker:
        tracker.reset_peak()
        for phase, run in (("forward", workload.forward), ("backward", workload.backward), ("update", workload.optimizer.step)):
            tracker.phase = phase
            run()
        tracker.settle()
    workload.prepare_training()
    return tracker


def _names(workload: Workload, places: Places) -> dict[int, tuple[str, str]]:
    """Id of a tensor that exists before a step → what it is, and the path of the part that owns it."""
    found = {id(workload.x): ("input", BETWEEN), id(workload.cotangent): ("gradient of the output", BETWEEN)}
    found |= {id(one): ("buffer", places.of_tensor(one)) for one in workload.module.buffers()}
    found |= {id(one): ("weight", places.of_tensor(one)) for one in workload.module.parameters()}
    for parameter, state in workload.optimizer.state.items():
        found |= {id(one): ("optimizer state", places.of_tensor(parameter)) for one in state.values()}
    return found


def _macs(workload: Workload, places: Places) -> tuple[dict[str, Mapping[str, int]], tuple[str, ...]]:
    """Real MACs of a training step, and of inference with full caches, by part; and the operations without a formula."""
    workload.prepare_training()
    step = macs.count(workload.step, places.now)
    workload.prepare_inference()
    workload.inference()
    inference = macs.count(workload.inference, places.now)
    unsupported = dict.fromkeys((*step.unsupported, *inference.unsupported))
    return {"step": step.by_place, "inference": inference.by_place}, tuple(unsupported)


def _parameter_bytes(workload: Workload, places: Places) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in workload.module.parameters():
        place = places.of_tensor(one)
        found[place] = found.get(place, 0) + saved.bytes_of([one])
    return found


def _named(path: str, places: Places) -> dict[str, Any]:
    if path == BETWEEN:
        return {"path": path, "block": "", "layer": BETWEEN_PARTS, "input": "", "output": ""}
    inputs, outputs = places.sizes.get(path, ("", ""))
    block, _, rest = path.partition(".")
    layer = type(places.parts[path]).__name__
    return {"path": path, "block": block if rest else "", "layer": layer, "input": inputs, "output": outputs}


def _about_peak(tracker: History) -> list[str]:
    """The peak in one line, and a line for each of what holds most of it."""
    summit, held = tracker.summit, grouped(pd.DataFrame([asdict(one) for one in tracker.at_peak()]))
    where = f" of layer {summit.place}" if summit.place else ""
    when = f"{_PHASES.get(summit.phase, summit.phase)}{where}, during {summit.made_by}"
    head = f"Peak of the training step: {memory.with_unit(tracker.peak)}, in the {when}. It is held by"
    return [head, *(f"  {line}" for line in held.head(MOST_HOLDERS).apply(_in_words, axis=1))]


_PHASES = {"forward": "forward pass", "backward": "backward pass"}


def grouped(held: pd.DataFrame) -> pd.DataFrame:
    """Equal tensors of a peak as one row, the largest rows first: made_by, shape, dtype, count, size_bytes, share, places."""
    kept = held.assign(shape=held["shape"].where(held["phase"] != BEFORE, ""))
    rows = kept.groupby(["made_by", "shape", "dtype"], sort=False, as_index=False).agg(
        count=("place", "size"), size_bytes=("size_bytes", "sum"), places=("place", between)
    )
    rows["share"] = rows["size_bytes"] / rows["size_bytes"].sum()
    return rows.sort_values("size_bytes", ascending=False, kind="stable", ignore_index=True)


def between(paths: Iterable[str]) -> str:
    """The first and the last of some paths, as in "3.0 … 3.8"."""
    found = [path for path in dict.fromkeys(paths) if path]
    return " … ".join(dict.fromkeys((found[0], found[-1]))) if found else ""


def _in_words(row: Any) -> str:
    if not row["dtype"]:
        tensors = "results and temporary memory of "
    else:
        tensors = f"{row['count']} × ({row['shape']}) {row['dtype']} made by " if row["shape"] else f"{row['count']} × "
    places = f" in {row['places']}" if row["places"] else ""
    return f"{row['share']:.0%} {memory.with_unit(row['size_bytes'])}: {tensors}{row['made_by']}{places}"
