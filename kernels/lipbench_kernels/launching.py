"""What all kernels share: named configurations, the precision of products, and how a kernel is launched or interpreted.

Kernels take float32 tensors on a CUDA device. With `TRITON_INTERPRET=1` in the environment before triton is imported, they run
on CPU tensors in triton's interpreter, which is for checking results, never for timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PRECISIONS = ("ieee", "tf32x3", "tf32")
"""ieee: float32 multiply-accumulates · tf32x3: three products of tensor cores, about float32's precision · tf32: one, with 10
bits of mantissa."""


KERNEL_SIZES = (1, 3, 5)
"""of convolutions, for which machine code is made and looked at without a GPU; any odd one works"""


def interpreted() -> bool:
    """Whether kernels run in triton's interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class Config:
    """One way to lay a kernel out on the machine."""

    constants: Mapping[str, int]
    """block sizes, by the names of the kernel's `tl.constexpr` arguments"""
    warps: int = 4
    stages: int = 2
    """of the software pipeline of loads"""


@dataclass(frozen=True)
class Variant:
    """One machine program that a kernel becomes: what has to be known to compile it without a GPU."""

    kernel: str
    config: str
    precision: str
    function: Any
    """the function under `@triton.jit`"""
    signature: Mapping[str, str]
    """argument → '*fp32', '*i32', 'i32', 'fp32' or 'constexpr', in order"""
    constants: Mapping[str, Any]
    """value of every constexpr argument, block sizes included"""
    warps: int
    stages: int
    shape: str = ""
    """what the constants stand for, e.g. 'k = 3'"""


@dataclass(frozen=True)
class Work:
    """What a computation moves and does."""

    macs: int
    """real multiply-accumulates"""
    read_bytes: int
    """from the device's memory, each tensor once"""
    written_bytes: int
    launches: int = 1

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved."""
        return 2 * self.macs / (self.read_bytes + self.written_bytes)

    def __add__(self, other: Work) -> Work:
        return Work(
            self.macs + other.macs,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
            self.launches + other.launches,
        )


@dataclass(frozen=True)
class Kernel:
    """An entry of the catalogue: a kernel, how it may be laid out, and what it costs beside the computation it replaces."""

    name: str
    summary: str
    variants: Callable[[], Iterator[Variant]]
    work: Callable[..., Work]
    """sizes by name → this kernel's work"""
    replaced: Callable[..., Work]
    """the same sizes → the work of the PyTorch operations whose place it takes"""
    example: Mapping[str, int] = field(default_factory=dict)
    """sizes at which the catalogue quotes the intensity"""


def tuned(function: Any, configs: Mapping[str, Config], key: Sequence[str]) -> Any:
    """A kernel that measures its configurations once for every new value of the arguments in `key`, and keeps the fastest.

    In the interpreter the first configuration serves.
    """
    choices = [triton.Config(dict(one.constants), num_warps=one.warps, num_stages=one.stages) for one in configs.values()]
    return triton.autotune(choices[:1] if interpreted() else choices, key=list(key), do_bench=_brief)(function)


def _brief(call: Callable[[], object], quantiles: Sequence[float]) -> Any:
    """Milliseconds of a call: enough to choose by, since every new size is tuned in every process."""
    from triton.testing import do_bench

    return do_bench(call, warmup=5, rep=20, quantiles=quantiles)


def require_precision(name: str, precision: str) -> None:
    """Raises `ValueError` for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"{name}: unknown precision: got {precision!r}; choose from {', '.join(PRECISIONS)}")


def check(name: str, precision: str, *tensors: Tensor) -> None:
    """That a kernel can run on these tensors. Raises `ValueError` that says what, what was got and what to do."""
    require_precision(name, precision)
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} takes float32: got {tensor.dtype}; convert the tensor, or use PyTorch's operations")
        if tensor.device != tensors[0].device:
            raise ValueError(f"{name} takes tensors of one device: got {tensors[0].device} and {tensor.device}; move them")
    if not interpreted() and tensors[0].device.type != "cuda":
        do = "move the tensors, or set TRITON_INTERPRET=1 to check results"
        raise ValueError(f"{name} runs on a CUDA device: got {tensors[0].device}; {do}")


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """The device of a tensor as the current one, since triton launches there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@triton.jit
def _cut(x):  # type: ignore[no-untyped-def]
    """float32 with the mantissa of tf32: the last 13 bits are cleared, as tensor cores ignore them."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def product(a, b, accumulator, PRECISION: tl.constexpr, EMULATED: tl.constexpr):  # type: ignore[no-untyped-def]
    """`accumulator + a · b`, (n, k) · (k, m), float32, at least 16 each, in the precision asked for.

    The interpreter multiplies in float32 whatever it is told, so there (`EMULATED`) the operands are cut to what tensor cores
    would see of them. Triton's rounding of an operand to tf32 is no worse than cutting.
    """
    if EMULATED and PRECISION != "ieee":
        high_a = _cut(a)
        high_b = _cut(b)
        if PRECISION == "tf32x3":
            low_a = _cut(a - high_a)
            low_b = _cut(b - high_b)
            accumulator = tl.dot(low_a, high_b, accumulator, input_precision="ieee")
            accumulator = tl.dot(high_a, low_b, accumulator, input_precision="ieee")
        accumulator = tl.dot(high_a, high_b, accumulator, input_precision="ieee")
    else:
        accumulator = tl.dot(a, b, accumulator, input_precision=PRECISION)
    return accumulator
