"""Predicted times of the phases of a case, from its operations and the rates of a device. Nothing is computed.

A floor is a sum over the operations of eager PyTorch. Each takes at least its multiply-accumulates at the peak, and at least
its bytes at the bandwidth (Williams, Waterman & Patterson, "Roofline", Communications of the ACM 52, 2009). Every operand is
taken to be read from memory once; what a large cache keeps from one operation to the next may be read faster. Launches are not
part of a floor, since no data sheet has their time; `PredictedTime.launches` is their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lipbench import errors
from lipbench.cases import Case
from lipbench.prediction import estimate, operations
from lipbench.prediction.estimate import UnmeasuredError
from lipbench.prediction.operations import Operation
from lipbench.prediction.rates import Rates

PHASES = ("forward", "backward", "step", "parametrize", "inference")
HALF = ("bfloat16", "float16")
DOUBLE = ("float64", "complex128")


@dataclass(frozen=True)
class PredictedTime:
    """Predicted seconds of one phase of a case."""

    phase: str
    seconds: float
    kind: Literal["floor", "estimate"]
    """floor: less is not possible with these operations · estimate: what is expected"""
    bound: str
    """what takes most of it: of a floor 'compute' or 'memory', and the kind of operation, as in 'compute (convolution)'; of an
    estimate the kind alone, or 'dispatch'; '' where nothing takes any time"""
    macs: float
    """real multiply-accumulates"""
    bytes: int
    """read and written by all operations"""
    launches: int
    """number of operations that the device runs"""
    unknown: tuple[str, ...] = ()
    """operations that may have multiply-accumulates, but have no formula: only their bytes count"""


def predicted(case: Case, rates: Rates) -> tuple[PredictedTime, ...]:
    """The phases forward, backward, step, parametrize and inference of a case, as far as it has them and they can be counted.

    Raises `LipbenchError` as `operations.of_case` does.
    """
    return _best(both(case, rates)[0], rates)


def _best(found: Mapping[str, Sequence[PredictedTime]], rates: Rates) -> tuple[PredictedTime, ...]:
    """Of what `both` found, the estimates where rates were measured, else the floors."""
    return tuple(one for several in found.values() for one in several if one.kind == _kind(rates))


def _kind(rates: Rates) -> Literal["floor", "estimate"]:
    return "estimate" if rates.tables else "floor"


def both(case: Case, rates: Rates) -> tuple[dict[str, tuple[PredictedTime, ...]], dict[str, str]]:
    """The floor of each phase and, with measured rates, its estimate; and what is missing, with the reason.

    Raises `LipbenchError` as `operations.of_case` does.
    """
    phases, missing = operations.of_case(case)
    found: dict[str, tuple[PredictedTime, ...]] = {}
    for phase, seen in phases.items():
        found[phase] = (floor(phase, seen, rates, case.precision),)
        if rates.tables:
            try:
                found[phase] += (estimated(phase, seen, rates),)
            except UnmeasuredError as error:
                missing[phase] = f"no rate was measured for {error}"
    return found, missing


def estimated(phase: str, found: Sequence[Operation], rates: Rates) -> PredictedTime:
    """The expected time of operations. Raises `UnmeasuredError` where nothing like one of them was measured."""
    shares: dict[str, float] = {"dispatch": estimate.overhead_s(phase, rates)}
    for one in found:
        shares[one.kind] = shares.get(one.kind, 0.0) + estimate.seconds(one, rates)
    return _of(phase, found, shares, "estimate")


def floor(phase: str, found: Sequence[Operation], rates: Rates, precision: str) -> PredictedTime:
    """The least time of operations, in a precision of `cases.PRECISIONS`."""
    shares: dict[str, float] = {}
    for one in found:
        compute_s, memory_s = one.macs / _peak(one, rates, precision), one.bytes / rates.bytes_per_s
        side = "compute" if compute_s > memory_s else "memory"
        name = f"{side} ({one.kind})"
        shares[name] = shares.get(name, 0.0) + max(compute_s, memory_s)
    return _of(phase, found, shares, "floor")


def _of(phase: str, found: Sequence[Operation], shares: dict[str, float], kind: Literal["floor", "estimate"]) -> PredictedTime:
    seconds = sum(shares.values())
    return PredictedTime(
        phase=phase,
        seconds=seconds,
        kind=kind,
        bound=max(shares, key=lambda name: shares[name]) if seconds else "",
        macs=sum(one.macs for one in found),
        bytes=sum(one.bytes for one in found),
        launches=sum(one.is_launched for one in found),
        unknown=tuple(dict.fromkeys(one.name for one in found if one.kind == "unknown")),
    )


def peak(case: Case, rates: Rates) -> float:
    """Multiply-accumulates per second at which the products of a case run at most."""
    dtype = "float16" if case.is_half else case.dtype
    return _peak(Operation("mm", "product", 0.0, 0, 0, dtype), rates, case.precision)


def _peak(one: Operation, rates: Rates, precision: str) -> float:
    """Largest multiply-accumulates per second of an operation. Only products, convolutions and kernels use tensor cores."""
    number = "half" if one.dtype in HALF else "float64" if one.dtype in DOUBLE else "float32"
    if number == "float32" and precision == "tf32" and one.kind in ("product", "convolution", "kernel"):
        number = "tf32"
    if number == "float32" and precision == "tf32x3" and one.kind == "kernel":
        number = "tf32x3"
    if number not in rates.macs_per_s and number.startswith("tf32"):
        number = "float32"  # a CPU has no tensor cores
    if number not in rates.macs_per_s:
        raise errors.no_rate(number, rates.name)
    return rates.macs_per_s[number]


# ---------------------------------------------------------------------------------------------------------- for the terminal


COLUMNS = [*(f"{phase}_s" for phase in PHASES), "time_kind", "step_bound", "inference_bound"]


def table(cases: Sequence[Case], rates: Rates) -> tuple[pd.DataFrame, list[str]]:
    """One row per case, in seconds: its id, and `COLUMNS`; and a line for each time that is missing, with the reason."""
    rows: list[dict[str, object]] = []
    problems = []
    for case in cases:
        try:
            found, missing = both(case, rates)
        except errors.LipbenchError as error:
            problems.append(f"times of {case.id}: {error}")
            continue
        problems += [f"time of {case.id}, {phase}: {why}" for phase, why in missing.items()]
        chosen = {one.phase: one for one in _best(found, rates)}
        times = {f"{phase}_s": chosen[phase].seconds if phase in chosen else math.nan for phase in PHASES}
        bounds = {f"{phase}_bound": chosen[phase].bound if phase in chosen else "" for phase in ("step", "inference")}
        rows.append({**times, "time_kind": _kind(rates), **bounds, "case": case.id})
    return pd.DataFrame(rows, columns=[*COLUMNS, "case"]), problems


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `table` for people: times of a step and of inference, and what bounds the step."""
    found = pd.DataFrame(index=frame.index)
    for phase in ("step", "inference"):
        found[f"{phase} time"] = ["?" if math.isnan(value) else with_unit(value) for value in frame[f"{phase}_s"]]
    return found.assign(**{"step bound by": frame["step_bound"]})


def with_unit(seconds: float) -> str:
    """Seconds in three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{1e6 * seconds:.3g} µs"


def note(rates: Rates | None) -> str:
    """What the times of a table are, or how to get some."""
    if rates is None:
        return "No times: name a GPU, as in --gpu H100, or measure this machine once by lipbench calibrate."
    if rates.tables:
        return f"Times are estimates for {rates.name}, from rates {rates.source}; lipbench predict --run RUN shows their error."
    return (
        f"Times are floors for the GPU {rates.name}, without launches: every operation at the peak or the bandwidth of the "
        f"data sheet ({rates.source}). No layer was timed on it."
    )
