"""Ceilings of the kernels' machine programs by issue rate, from `lipbench kernels --format json`, for each hot spot.

A phase of a hot spot is one program or several, which share its multiply-accumulates in equal parts. A program has the highest
ceiling of its configurations. Where the code does not show one (sm_100's tensor cores), the only ceiling is the GPU's peak.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from lipbench_kernels.roofline import Gpu
from lipbench_kernels.small_matrices import block_of
from lipbench_kernels.soc_resident import fits

from bench.hot_spots import HotSpot, Shape
from bench.works import Ceiling

Program = tuple[str, str]
"""(kernel of the catalogue, `shape` of its variants)"""


def _bound(shape: Shape, phase: str) -> list[Program]:
    return [("aol_bound" if phase == "forward" else "aol_bound_backward", f"k = {shape.kernel_size}")]


def _step(shape: Shape, phase: str) -> list[Program]:
    image, kernel = f"k = {shape.kernel_size}, image", f"k = {shape.kernel_size}, kernel"
    return [("soc_step", image)] if phase == "forward" else [("soc_step_backward", image), ("soc_step_backward", kernel)]


def _series(shape: Shape, phase: str) -> list[Program]:
    resident = fits(shape.channels, shape.image_size, shape.image_size)
    kind = f"k = {shape.kernel_size}, {'small images' if resident else 'image'}"
    if phase == "forward":
        return [("soc_series" if resident else "soc_step", kind)]
    return [("soc_series_backward", kind), ("soc_step_backward", f"k = {shape.kernel_size}, kernel")]


def _matrices(name: str) -> Callable[[Shape, str], list[Program]]:
    def programs(shape: Shape, phase: str) -> list[Program]:
        block = block_of(shape.channels)
        return [(name if phase == "forward" else f"{name}_backward", f"{block} × {block}")]

    return programs


PROGRAMS: Mapping[str, Callable[[Shape, str], list[Program]]] = {
    "aol": _bound, "sll": _bound, "soc-step": _step, "soc": _series,
    "bjorck": _matrices("bjorck"), "newton": _matrices("newton_inverse_root"),
}  # fmt: skip
"""Hot spot → (shape, phase) → the programs that compute its products"""


def best(rows: list[dict[str, object]]) -> dict[tuple[str, str, str, str], float | None]:
    """(kernel, shape, precision, architecture) → highest ceiling of its configurations, FLOP/s; None if one is unknown."""
    found: dict[tuple[str, str, str, str], float | None] = {}
    for row in rows:
        key = (str(row["kernel"]), str(row["shape"]), str(row["precision"]), str(row["architecture"]))
        value, before = row["program_tflops"], found.get(key, 0.0)
        told = isinstance(value, (int, float)) and before is not None
        found[key] = max(before or 0.0, 1e12 * value) if told and isinstance(value, (int, float)) else None
    return found


def of(rows: list[dict[str, object]]) -> Ceiling:
    """The ceilings as a function, as `works` takes it. It raises `KeyError` for a program that is not in the rows."""
    known = best(rows)

    def ceiling(spot: HotSpot, shape: Shape, phase: str, gpu: Gpu, precision: str) -> float | None:
        programs = PROGRAMS[spot.name](shape, phase)
        each = [known[(kernel, kind, precision, gpu.architecture)] for kernel, kind in programs]
        told = [one for one in each if one is not None]
        return len(told) / sum(1 / one for one in told) if len(told) == len(each) else None

    return ceiling


def read(path: Path) -> list[dict[str, object]]:
    """The rows that `lipbench kernels --format json` printed to a file."""
    rows: list[dict[str, object]] = json.loads(path.read_text())
    return rows
