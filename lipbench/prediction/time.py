"""Predicted times of the phases of a case, from its operations and the rates of a device. Nothing is computed.

A floor is a sum over the operations of eager PyTorch. Each takes at least its multiply-accumulates at the peak, and at least
its bytes at the bandwidth (Williams, Waterman & Patterson, "Roofline", Communications of the ACM 52, 2009). Every operand is
taken to be read from memory once; what a large cache keeps from one operation to the next may be read faster. Launches are not
part of a floor, since no data sheet has their time; `PredictedTime.launches` is their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lipbench.cases import Case
from lipbench.prediction import operations
from lipbench.prediction.operations import Operation
from lipbench.prediction.rates import Rates

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
    """what takes most of it: 'compute' or 'memory', and the kind of operation, as in 'compute (convolution)'; '' where nothing
    takes any time"""
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
    phases, _ = operations.of_case(case)
    return tuple(floor(phase, found, rates, case.precision) for phase, found in phases.items())


def floor(phase: str, found: Sequence[Operation], rates: Rates, precision: str) -> PredictedTime:
    """The least time of operations, in a precision of `cases.PRECISIONS`."""
    shares: dict[str, float] = {}
    for one in found:
        compute_s, memory_s = one.macs / _peak(one, rates, precision), one.bytes / rates.bytes_per_s
        side = "compute" if compute_s > memory_s else "memory"
        name = f"{side} ({one.kind})"
        shares[name] = shares.get(name, 0.0) + max(compute_s, memory_s)
    seconds = sum(shares.values())
    return PredictedTime(
        phase=phase,
        seconds=seconds,
        kind="floor",
        bound=max(shares, key=lambda name: shares[name]) if seconds else "",
        macs=sum(one.macs for one in found),
        bytes=sum(one.bytes for one in found),
        launches=sum(one.is_launched for one in found),
        unknown=tuple(dict.fromkeys(one.name for one in found if one.kind == "unknown")),
    )


def _peak(one: Operation, rates: Rates, precision: str) -> float:
    """Largest multiply-accumulates per second of an operation. Only products, convolutions and kernels use tensor cores."""
    number = "half" if one.dtype in HALF else "float64" if one.dtype in DOUBLE else "float32"
    if number == "float32" and precision == "tf32" and one.kind in ("product", "convolution", "kernel"):
        number = "tf32"
    if number == "float32" and precision == "tf32x3" and one.kind == "kernel":
        number = "tf32x3"
    return rates.macs_per_s[number]
