"""Estimated times of operations on a machine whose rates were measured: interpolated between the sizes that were measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from lipbench.prediction.operations import Operation
from lipbench.prediction.rates import Rates, Table

_REAL = {"complex64": "float32", "complex128": "float64"}
"""dtype of numbers → that of their parts, by which transforms are measured"""


class UnmeasuredError(Exception):
    """An operation has a form, or a dtype, that was not measured."""


def seconds(one: Operation, rates: Rates) -> float:
    """Expected seconds of an operation. Raises `UnmeasuredError` where nothing like it was measured."""
    overheads = rates.overheads_s
    if one.kind == "view":
        return overheads["view"] + (overheads["record"] if one.recorded else 0.0)
    found = _interpolation(_table(one, rates))(one.sizes)
    for form, sizes in one.copies:
        found += _interpolation(_table(replace(one, kind="elementwise", macs=0.0, form=form), rates))(sizes)
    if one.in_backward:
        return found + overheads["node"] - overheads["call"]
    return found + (overheads["record"] if one.recorded else 0.0)


def _table(one: Operation, rates: Rates) -> Table:
    if one.form is None:
        raise UnmeasuredError(one.name)
    dtype = _REAL.get(one.dtype, one.dtype) if one.kind == "transform" else one.dtype
    same = [table for table in rates.tables if table.form == one.form]
    chosen = [table for table in same if table.dtype == dtype or not one.macs]  # what moves data takes as long as its bytes
    if not chosen:
        raise UnmeasuredError(f"{one.name} in {one.dtype}")
    return max(chosen, key=lambda table: table.dtype == dtype)


@functools.lru_cache(maxsize=256)
def _interpolation(table: Table) -> Callable[[Sequence[float]], float]:
    """Sizes → seconds: linear between the logarithms of sizes and times; beyond the grid, along its last lines."""
    axes = [np.log(axis) for axis in table.axes]
    times = np.log(table.seconds).reshape([len(axis) for axis in axes])
    grid = RegularGridInterpolator(axes, times, bounds_error=False, fill_value=None)

    def interpolated(sizes: Sequence[float]) -> float:
        return float(np.exp(grid([np.log(np.maximum(sizes, 1e-9))])[0]))

    return interpolated


def overhead_s(phase: str, rates: Rates) -> float:
    """Seconds of a phase beside its operations."""
    parts = ("forward", "backward", "update") if phase == "step" else (phase,)
    return sum(rates.overheads_s[part] for part in parts)
