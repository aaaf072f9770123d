"""Rates of a device as plain data: peaks and bandwidth of a named GPU by its data sheet, or those measured on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lipbench_kernels.roofline import GPUS, Gpu

from lipbench import errors


@dataclass(frozen=True)
class Rates:
    """How fast a device is."""

    name: str
    """of the GPU or the machine"""
    source: str
    """where the numbers are from"""
    device: str
    """'cpu' or 'cuda'"""
    macs_per_s: Mapping[str, float] = field(default_factory=dict)
    """largest real multiply-accumulates per second: of 'float32', 'float64', 'half' (bfloat16, float16), and of products and
    convolutions in 'tf32' and of kernels in 'tf32x3'"""
    bytes_per_s: float = 0.0
    """largest bandwidth, reading and writing together"""


def named(name: str) -> Rates:
    """The rates of a GPU by its data sheet, such as 'H100' or 'rtx4090'. Raises `LipbenchError` for one that is not known."""
    known = {_plain(gpu.name): gpu for gpu in GPUS.values()}
    if _plain(name) not in known:
        raise errors.unknown_choice("GPU", name, GPUS)
    return _of_gpu(known[_plain(name)])


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")


def _of_gpu(gpu: Gpu) -> Rates:
    flops = {
        "float32": gpu.float32_flops_per_s, "float64": gpu.float64_flops_per_s, "half": gpu.half_flops_per_s,
        "tf32": gpu.tf32_flops_per_s, "tf32x3": gpu.tf32_flops_per_s / 3,
    }  # fmt: skip
    return Rates(gpu.name, gpu.source, "cuda", {name: value / 2 for name, value in flops.items()}, gpu.bytes_per_s)
