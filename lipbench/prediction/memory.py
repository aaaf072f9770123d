"""Predicts the memory of a case without computing: fake tensors pass through the layer, and their storages are counted."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lipbench import errors, external, registry, traces
from lipbench.cases import CONDITIONS, Case, columns_of
from lipbench.meters import live, saved, scratch
from lipbench.meters import memory as memory_meter
from lipbench.meters.attempts import Attempts
from lipbench.prediction import fakes
from lipbench.prediction.repeats import Repeats
from lipbench.quantities import Memory, Peak
from lipbench.workload import Workload

SOURCE = "fake tensors"
_TOO_LARGE = ("overflow", "too large", "numel")
"""words of an error for tensors with more bytes than 64 bits can count"""
SIZES = ("channels", "image_size", "kernel_size", "batch_size")
TRAINING, INFERENCE = ("step",), ("first_inference", "inference")
"""the phases whose peaks say whether a case fits"""
COLUMNS = ["parameters_bytes", "saved_bytes", "training_peak_bytes", "inference_peak_bytes"]


def memory(case: Case) -> Memory:
    """The memory split and peaks that `meters.memory.measure` would find, in bytes, counted on fake tensors.

    On a CPU, the scratch memory of x86 kernels is included. On CUDA, blocks in the peaks are rounded up to 512 bytes as by
    PyTorch's allocator. Workspaces that libraries such as cuDNN allocate for a call are unknown; PyTorch's cuBLAS workspaces
    are in no peak, neither predicted nor measured. Needs no GPU. A phase that raises is left out, with its reason in
    `failures`. Raises `LipbenchError` where the case cannot be built, or the layer reads the value of a tensor.
    """
    with imagined(case) as workload:
        found, attempts = memory_meter.split(workload, SOURCE), Attempts()
        found_peaks = _peaks(workload, attempts)
        return replace(found, peaks=found_peaks, failures={**found.failures, **attempts.failures})


def decisive(case: Case) -> Memory:
    """What a table shows of `memory`: parameters, saved bytes, and the peaks of a training step and of inference.

    The same numbers in half the time, for a layer of this package, since such a layer keeps nothing between its calls: no phase
    is run whose numbers are not needed. For any other, all of `memory`. Raises as that does.
    """
    if case.spec.method not in registry.METHODS:
        return memory(case)
    with imagined(case) as workload:
        memory_meter.give_optimizer_state(workload)
        workload.prepare_training()
        saved_bytes = saved.saved_bytes(workload.forward)
        attempts = Attempts()
        peaks, is_whole = _peaks(workload, attempts, TRAINING), memory_meter.has_all_gradients(workload)
        tracker = live.LiveStorages(*allocator(case.device))
        with Repeats(workload.halves, tracker):
            peaks |= live.peaks_by(tracker, memory_meter.stages(workload, INFERENCE), memory_meter.held(workload))
        found = replace(memory_meter.split(workload, SOURCE, ()), saved_bytes=saved_bytes, peaks=peaks)
    return found if is_whole and not attempts.failures and not tracker.assumed else memory(case)


def peaks(cases: Sequence[Case], limit_s: float = math.inf) -> tuple[pd.DataFrame, list[str]]:
    """One row per case and phase: case (id), phase, predicted_peak_bytes, to compare with `Peak.total_bytes`.

    Exported forms are left out. Also returns one line per case that cannot be predicted, and one for the cases left after
    `limit_s` seconds.
    """
    rows: list[dict[str, object]] = []
    problems = []
    begin = time.monotonic()
    cases = [case for case in cases if not case.exported]
    for number, case in enumerate(cases):
        if time.monotonic() - begin > limit_s:
            problems.append(
                f"memory of {len(cases) - number} of {len(cases)} cases was not predicted within {limit_s:g} s; "
                "use lipbench predict"
            )
            break
        try:
            with imagined(case) as workload:
                attempts = Attempts()
                attempts("step", lambda: memory_meter.make_optimizer_state(workload))
                found = _peaks(workload, attempts)
        except errors.LipbenchError as error:
            problems.append(f"memory of {case.id} was not predicted: {error}")
            continue
        problems += [f"memory of {case.id}, {what}, was not predicted: {why}" for what, why in attempts.failures.items()]
        rows += [{"case": case.id, "phase": phase, "predicted_peak_bytes": peak.total_bytes} for phase, peak in found.items()]
    return pd.DataFrame(rows, columns=["case", "phase", "predicted_peak_bytes"]), problems


@contextmanager
def imagined(case: Case) -> Iterator[Workload]:
    """The workload of a case on fake tensors; the block runs in their mode.

    Exceptions of an external layer become `LipbenchError`.
    """
    if case.exported:
        raise errors.export_not_predicted()
    try:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            yield Workload.imagine(case, lambda: fakes.build(case.spec, mode))
    except errors.LipbenchError:
        raise
    except Exception as error:  # an external layer may raise anything
        why = traces.line(error)
        if any(word in why.lower() for word in _TOO_LARGE):
            raise errors.too_large_to_count(case.id, why) from error
        if case.spec.method in registry.METHODS:
            raise  # a bug in a layer of this package
        raise errors.needs_values(case.spec.method, why) from error


@contextmanager
def outlined(case: Case) -> Iterator[Workload]:
    """The workload of a layer of this package on tensors of PyTorch's device "meta", which the block uses by default.

    They have shapes and no values, as fake tensors, but no kernel stands behind them: their operations take half the time.
    """
    with torch.device("meta"):
        yield Workload.imagine(case, lambda: registry.build(case.spec))


def allocator(device: str) -> tuple[live.Rounding, Mapping[Any, live.Scratch] | None]:
    """How a device's allocator rounds blocks, and the formulas of what its kernels allocate while they run."""
    return (live.cuda_blocks, None) if device == "cuda" else (live.exact, scratch.CPU)


def _peaks(workload: Workload, attempts: Attempts, phases: Collection[str] | None = None) -> dict[str, Peak]:
    """Peaks of the phases, by default of all, that do not raise. Raises the first error if all do."""
    stages, held = memory_meter.guarded(memory_meter.stages(workload, phases), attempts), memory_meter.held(workload)
    assumed: dict[str, str] = {}
    found = live.peaks(stages, held, *allocator(workload.case.device), assumed)
    whole = {phase: peak for phase, peak in found.items() if phase not in attempts.failures}
    if not whole:
        attempts.raise_first()
    attempts.failures |= {f"temporary memory of {operation}": why for operation, why in assumed.items()}
    return whole


def step_peak(case: Case) -> int:
    """The peak of a training step in bytes, as in `memory`, in a fraction of its time: no other phase is run.

    Raises `LipbenchError` as `memory` does, and what a layer of this package raises in the step.
    """
    with imagined(case) as workload:
        memory_meter.make_optimizer_state(workload)
        return _peaks(workload, Attempts(), ("step",))["step"].total_bytes


# ---------------------------------------------------------------------------------------------------------- for the terminal


def table(cases: Sequence[Case], limit_bytes: int | None = None) -> tuple[pd.DataFrame, list[str]]:
    """One row per case, in bytes, and one line for each case that cannot be predicted.

    The first columns name the case, as in `cases.columns_of`, and the last one is its id.
    The training peak is that of `step`; the inference peak is the larger of those with an empty and with a full cache. With a
    limit, `fits` says what stays within it: "training" (and inference), "inference" alone, or "nothing"; "unknown" where the
    peak that decides is not known. There is a column `remark` if a number is missing or does not contain everything.
    """
    rows: list[dict[str, object]] = []
    ends: list[tuple[int | None, int | None]] = []
    problems, told = [], []
    for case in cases:
        try:
            found = decisive(case)
        except errors.LipbenchError as error:
            problems.append(f"{case.id}: {error}")
            continue
        ends.append((training_peak(found), inference_peak(found)))
        numbers = (found.parameter_bytes, found.saved_bytes, *ends[-1])
        rows.append({**columns_of(case), **dict(zip(COLUMNS, numbers)), "case": case.id})
        told.append(remark(found))
    frame = pd.DataFrame(rows, columns=[*(columns_of(cases[0]) if cases else ()), *COLUMNS, "case"])
    gaps = [name for name in (*SIZES, *COLUMNS) if name in frame and frame[name].isna().any()]
    frame = frame.astype(dict.fromkeys(gaps, "Int64"))
    if limit_bytes is not None:
        frame["memory_bytes"] = limit_bytes
        frame["fits"] = pd.Series([_fitting(*both, limit_bytes) for both in ends], dtype=object)
    if any(told):
        frame["remark"] = told
    return frame[[*frame.columns.drop("case"), "case"]], problems


def training_peak(found: Memory) -> int | None:
    """The peak of a training step, in bytes; None where it is not known."""
    return found.peaks["step"].total_bytes if "step" in found.peaks else None


def inference_peak(found: Memory) -> int | None:
    """The larger of the peaks of inference with an empty and with a full cache, in bytes; None where neither is known."""
    return max((peak.total_bytes for phase, peak in found.peaks.items() if phase.endswith("inference")), default=None)


def remark(found: Memory) -> str:
    """What a reader must know of a prediction; "" if it is whole."""
    unseen = f"{with_unit(found.unseen_bytes)} outlive the forward pass unseen by autograd, beside those saved"
    failed = [f"{what} is unknown ({why})" for what, why in found.failures.items()]
    return "; ".join(([unseen] if found.unseen_bytes else []) + failed)


def _fitting(training_bytes: int | None, inference_bytes: int | None, limit_bytes: int) -> str:
    if inference_bytes is not None and inference_bytes > limit_bytes:
        return "nothing"
    if training_bytes is None or inference_bytes is None:
        return "unknown"
    return "training" if training_bytes <= limit_bytes else "inference"


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for people: the case by name and sizes, values with suitable units, and what fits in how much."""
    found = named(frame)
    for column in COLUMNS:
        title = column.removesuffix("_bytes").replace("_", " ")
        found[title] = ["?" if pd.isna(size) else with_unit(size) for size in frame[column]]
    if "fits" in frame:
        rows = frame[["fits", *COLUMNS[2:], "memory_bytes"]].itertuples(index=False, name=None)
        found["fits"] = [_in_words(*row) for row in rows]
    if "remark" in frame:
        found["remark"] = frame["remark"]
    return found


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that name the cases of a frame, as texts for people."""
    found = pd.DataFrame({"method": [external.shown(name) for name in frame["method"]]}, index=frame.index)
    found = found.assign(implementation=frame["implementation"], network=frame["network"])
    found["channels"] = ["" if pd.isna(count) else str(count) for count in frame["channels"]]
    for name, title in (("image_size", "image"), ("kernel_size", "kernel")):
        found[title] = ["" if pd.isna(size) else f"{size} × {size}" for size in frame[name]]
    if "batch_size" in frame:
        found["batch"] = [str(count) for count in frame["batch_size"]]
    for one in _TOLD:
        found[one.column] = [_of_condition(value) for value in frame[one.column]]
    return found


def narrowed(table: pd.DataFrame) -> pd.DataFrame:
    """A readable table without the columns in which every case has the default."""
    usual = {"implementation": "paper", **{one.column: _of_condition(one.default) for one in _TOLD}}
    return table[[name for name in table if not len(table) or (table[name].fillna("") != usual.get(str(name), "")).any()]]


_TOLD = [one for one in CONDITIONS if one.column and one.affects_memory and one.name not in ("device", "exported")]
"""the conditions that a prediction depends on, but for the device, which the note names"""


def _of_condition(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _in_words(fits: str, training_bytes: int, inference_bytes: int, limit_bytes: int) -> str:
    limit = with_unit(limit_bytes)
    if fits == "training":
        return f"yes, {with_unit(training_bytes)} of {limit}"
    if fits == "inference":
        return f"inference alone, {with_unit(inference_bytes)} of {limit}"
    return f"no, inference needs more than {limit}" if fits == "nothing" else fits


def with_unit(size: float) -> str:
    """Bytes in three digits: 1 kB is 1000 bytes."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


NOTES = {
    "cpu": "Peak bytes in use by PyTorch's allocator on x86, counted from shapes; 1 MB is 10⁶ bytes.",
    "cuda": "Peak bytes in use by PyTorch's allocator, blocks rounded up to 512 bytes, counted from shapes; 1 MB is 10⁶ bytes. "
    "Workspaces of cuDNN and cuBLAS, and the memory of CUDA itself, are not included.",
}
"""device → meaning of the numbers"""
