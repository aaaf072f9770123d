"""Rates of a device as plain data: peaks and bandwidth of a named GPU by its data sheet, or those measured on a machine."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lipbench_kernels.roofline import GPUS, Gpu, by_device_name

from lipbench import errors
from lipbench.cores import usable_cores
from lipbench.quantities import Machine
from lipbench.store.files import DAMAGED, load_versioned, write_errors, write_json
from lipbench.store.typed import from_json, said

SCHEMA = 2
"""version of the file that `write` makes; 1 was measured with operands that lay in the cache"""


@dataclass(frozen=True)
class Table:
    """Times of one form of operation in one dtype on a grid of sizes."""

    form: str
    """of `forms.AXES`, which has the names of the axes"""
    dtype: str
    axes: tuple[tuple[float, ...], ...]
    """increasing sizes"""
    seconds: tuple[float, ...]
    """at every point of the grid, the last axis first"""


@dataclass(frozen=True)
class Rates:
    """How fast a device is."""

    name: str
    """of the GPU or the machine"""
    source: str
    """where the numbers are from"""
    device: str
    """'cpu' or 'cuda'"""
    macs_per_s: dict[str, float] = field(default_factory=dict)
    """largest real multiply-accumulates per second: of 'float32', 'float64', 'half' (bfloat16, float16), and of products and
    convolutions in 'tf32' and of kernels in 'tf32x3'"""
    bytes_per_s: float = 0.0
    """largest bandwidth, reading and writing together"""
    threads: int | None = None
    """of a machine that was measured, as are all that follow"""
    started: str = ""
    machine: Machine | None = None
    overheads_s: dict[str, float] = field(default_factory=dict)
    """what an operation or a phase costs beside the work, by `calibration.overheads.measure`"""
    tables: tuple[Table, ...] = ()


def named(name: str) -> Rates:
    """The rates of a GPU by its data sheet, such as 'H100' or 'rtx4090'. Raises `LipbenchError` for one that is not known."""
    known = {_plain(gpu.name): gpu for gpu in GPUS.values()}
    if _plain(name) not in known:
        raise errors.unknown_choice("GPU", name, GPUS)
    return _of_gpu(known[_plain(name)])


def of_device(name: str) -> Rates | None:
    """The rates of a GPU by PyTorch's name of it, such as 'NVIDIA H200'; None for one that is not known."""
    gpu = by_device_name(name)
    return None if gpu is None else _of_gpu(gpu)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")


def _of_gpu(gpu: Gpu) -> Rates:
    flops = {
        "float32": gpu.float32_flops_per_s, "float64": gpu.float64_flops_per_s, "half": gpu.half_flops_per_s,
        "tf32": gpu.tf32_flops_per_s, "tf32x3": gpu.tf32_flops_per_s / 3,
    }  # fmt: skip
    return Rates(gpu.name, gpu.source, "cuda", {name: value / 2 for name, value in flops.items()}, gpu.bytes_per_s)


# ------------------------------------------------------------------------------------------------------ measured rates, on disk


def usual_path(threads: int) -> Path:
    """The file in the user's cache for the rates of this machine with so many threads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lipbench" / f"rates-{os.uname().nodename}-{threads}-threads.json"


def write(rates: Rates, path: Path | None = None) -> Path:
    """Write measured rates to a file, by default to `usual_path`. Raises `LipbenchError` where that is not possible."""
    chosen = path or usual_path(rates.threads or 1)
    with write_errors(chosen):
        if path is None:
            chosen.parent.mkdir(parents=True, exist_ok=True)
        write_json(chosen, {"schema": SCHEMA, **asdict(rates)})
    return chosen


def read(path: Path) -> Rates:
    """Read what `write` wrote. Raises `LipbenchError` for anything else."""
    values = load_versioned(path, SCHEMA, errors.unreadable_file)
    if values.pop("schema") < SCHEMA:
        raise errors.unreadable_file(path, "rates of an earlier lipbench, which measured too short times")
    try:
        found: Rates = from_json(Rates, values)
    except DAMAGED as error:
        raise errors.unreadable_file(path, said(error)) from error
    if any(len(table.seconds) != math.prod(map(len, table.axes)) for table in found.tables):
        raise errors.unreadable_file(path, "a table does not fit its axes")
    return found


def present() -> Path | None:
    """The file in the user's cache for all cores that this process may use; None where there is none."""
    path = usual_path(usable_cores())
    return path if path.exists() else None


def chosen(gpu: str | None, path: str | Path | None) -> Rates | None:
    """The rates of a GPU by its name, or those in a file; None without either. Raises as `named` and `read` do."""
    if gpu is not None:
        return named(gpu)
    return None if path is None else read(Path(path))
