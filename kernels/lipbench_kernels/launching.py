"""What all kernels share: named configurations, the precision of products, and how a kernel is launched or interpreted.

Kernels take float32 tensors on a CUDA device. With `TRITON_INTERPRET=1` in the environment before triton is imported, they run
on CPU tensors in triton's interpreter, which is for checking results, never for timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PRECISIONS = ("ieee", "tf32x3", "tf32")
"""ieee: float32 multiply-accumulates · tf32x3: three products of tensor cores, about float32's precision · tf32: one, with 10
bits of mantissa."""


KERNEL_SIZES = (1, 3, 5)
"""of convolutions, for which machine code is compiled and read without a GPU; any odd size works"""


def interpreted() -> bool:
    """Whether kernels run in triton's interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class Config:
    """A launch configuration of a kernel."""

    constants: Mapping[str, int]
    """block sizes, by the names of the kernel's `tl.constexpr` arguments"""
    warps: int = 4
    stages: int = 2
    """of the software pipeline of loads"""


@dataclass(frozen=True)
class Variant:
    """One machine program of a kernel: all that is needed to compile it without a GPU."""

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
    unaligned: tuple[str, ...] = ()
    """pointers that may not be aligned to 16 bytes: PyTorch's tensors are, but not every slice of one"""


@dataclass(frozen=True)
class Work:
    """The memory traffic, arithmetic and launches of a computation."""

    macs: int
    """real multiply-accumulates"""
    read_bytes: int
    """from the device's memory, each tensor once"""
    written_bytes: int
    launches: int = 1
    tuned: int = 0
    """number of launches of this package's kernels, which cost the host more than PyTorch's own"""

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
            self.tuned + other.tuned,
        )


@dataclass(frozen=True)
class Kernel:
    """An entry of the catalogue: a kernel, its variants, and its costs beside those of the computation that it replaces."""

    name: str
    summary: str
    variants: Callable[[], Iterator[Variant]]
    work: Callable[..., Work]
    """sizes by name → this kernel's work"""
    replaced: Callable[..., Work]
    """the same sizes → the work of the PyTorch operations that it replaces"""
    example: Mapping[str, int] = field(default_factory=dict)
    """sizes at which the catalogue quotes the intensity"""


class Tuned:
    """A kernel that measures its configurations once for every new value of some arguments, and keeps the fastest.

    Launched as `kernel[grid](*arguments)`, like triton's own kernels. The measurements are kept on disk beside triton's
    compiled programs. So a later process on the same architecture, with the same code and the same configurations, neither
    measures them nor compiles the slower ones; emptying that folder (TRITON_CACHE_DIR) makes a kernel choose again. In the
    interpreter a kernel uses its first configuration. `only` overrides all of this.
    """

    def __init__(self, function: Any, configs: Mapping[str, Config], key: Sequence[str]) -> None:
        self.name = f"{function.fn.__module__.rpartition('.')[2]}.{function.fn.__name__.lstrip('_')}"
        self.function = function
        """the function under `@triton.jit`"""
        self.configs = dict(configs)
        self.key = tuple(key)
        self.choices: dict[tuple[Any, ...], str] = {}
        """values of the arguments in `key` → name of the configuration that serves them in this process"""
        self.tuning_s: dict[tuple[Any, ...], float] = {}
        """the same values → seconds that this process spent measuring and compiling for them; 0 where neither was needed"""
        self._measured_s = 0.0
        names = list(function.arg_names)
        self._places = [(names.index(argument), argument) for argument in self.key]
        self._options = {
            name: {**one.constants, "num_warps": one.warps, "num_stages": one.stages} for name, one in configs.items()
        }
        measured = [triton.Config(dict(one.constants), num_warps=one.warps, num_stages=one.stages) for one in configs.values()]
        self._autotuner = triton.autotune(measured, key=list(key), do_bench=self._brief, cache_results=True)(function)

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """The launch over a grid, which may depend on the configuration's constants."""
        return partial(self._launch, grid)

    def _launch(self, grid: Any, *arguments: Any, **named: Any) -> None:
        forced = self._forced() if _OVERRIDES else None
        if forced is not None:
            self.function[grid](*arguments, **named, **self._options[forced])
            return
        values = tuple(arguments[place] if place < len(arguments) else named[name] for place, name in self._places)
        chosen = self.choices.get(values)
        if chosen is None:
            self._choose(values, grid, arguments, named)
        else:  # without triton's tuner, which would inspect every argument again
            self.function[grid](*arguments, **named, **self._options[chosen])

    def _choose(self, values: tuple[Any, ...], grid: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Choose a configuration in the first launch with these values."""
        before, chosen = self._measured_s, next(iter(self.configs))
        if interpreted() or len(self.configs) == 1:
            self.function[grid](*arguments, **named, **self._options[chosen])
        else:
            self._autotuner[grid](*arguments, **named)
            chosen = self._name_of(self._autotuner.best_config)
        self.choices[values] = chosen
        self.tuning_s[values] = self._measured_s - before

    def _name_of(self, best: Any) -> str:
        found = {**best.kwargs, "num_warps": best.num_warps, "num_stages": best.num_stages}
        return next(name for name, options in self._options.items() if options == found)

    def _forced(self) -> str | None:
        """The configuration that `only` or `turn` asks for, None where the kernel chooses."""
        choose, launched = _OVERRIDES[-1]
        config = choose(self)
        if config is not None and config not in self.configs:
            raise ValueError(f"{self.name} has no such configuration: got {config!r}; choose from {', '.join(self.configs)}")
        if config is not None:
            launched.add((self.name, config))
        return config

    def _brief(self, call: Callable[[], object], quantiles: Sequence[float]) -> Any:
        """Milliseconds of a call, measured briefly, which is enough for a choice. The first call compiles."""
        from triton.testing import do_bench

        start = time.perf_counter()
        try:
            return do_bench(call, warmup=5, rep=20, quantiles=quantiles)
        finally:
            self._measured_s += time.perf_counter() - start

    def described(self, values: tuple[Any, ...]) -> str:
        """The kernel with the values that it was tuned for: 'soc_convolution.step(channels=64, K=3, …)'."""
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in zip(self.key, values))})"


_TUNED: list[Tuned] = []
"""the tuned kernels of all modules that this process has imported, in order; a process has one choice for each"""
_OVERRIDES: list[tuple[Callable[[Tuned], str | None], set[tuple[str, str]]]] = []
"""what `only` and `turn` ask for; the last one counts. It holds for the process, not for a thread, because PyTorch runs
backward passes in threads of its own"""


def tuned(function: Any, configs: Mapping[str, Config], key: Sequence[str]) -> Tuned:
    """A kernel from a function under `@triton.jit`; it chooses among configurations for each new value of `key`."""
    kernel = Tuned(function, configs, key)
    _TUNED.append(kernel)
    return kernel


def configurations() -> dict[str, tuple[str, ...]]:
    """Kernel, by `Tuned.name` → the names of the configurations that it has in this process, for any of its sizes."""
    found: dict[str, dict[str, None]] = {}
    for one in _TUNED:
        found.setdefault(one.name, {}).update(dict.fromkeys(one.configs))
    return {name: tuple(configs) for name, configs in found.items()}


def chosen() -> dict[str, str]:
    """Every configuration in use in this process: kernel and the values it was tuned for → name of the configuration.

    For example {'aol_bound.correlate(outputs=64, inputs=64, K=3, PRECISION=ieee)': 'medium'}. Empty before the first launch.
    Launches inside `only` choose nothing. Reading it touches no device.
    """
    return {one.described(values): name for one in _TUNED for values, name in one.choices.items()}


def tuning_s() -> dict[str, float]:
    """The keys of `chosen` → seconds that this process spent measuring and compiling to choose; 0 where it found the choice on
    disk, had one configuration, or interprets."""
    return {one.described(values): taken for one in _TUNED for values, taken in one.tuning_s.items()}


@contextmanager
def only(configs: Mapping[str, str]) -> Iterator[set[tuple[str, str]]]:
    """Make kernels, by `Tuned.name`, use the named configuration: `only({'aol_bound.spread': 'narrow'})`. Others choose.

    Yields the (kernel, configuration) pairs that are launched in this way. Holds for the whole process. Raises `ValueError`
    for a kernel that is not imported; where a kernel has no such configuration, its launch raises it.
    """
    known = {one.name for one in _TUNED}
    for name in configs:
        if name not in known:
            raise ValueError(f"no tuned kernel of that name: got {name!r}; choose from {', '.join(sorted(known))}")
    with _override(lambda kernel: configs.get(kernel.name)) as launched:
        yield launched


@contextmanager
def turn(number: int) -> Iterator[set[tuple[str, str]]]:
    """Make every kernel use its configuration of that number, modulo their count; turns 0, 1, … pass through all of them.

    Yields the (kernel, configuration) pairs that are launched. Holds for the whole process.
    """
    with _override(lambda kernel: tuple(kernel.configs)[number % len(kernel.configs)]) as launched:
        yield launched


@contextmanager
def _override(choose: Callable[[Tuned], str | None]) -> Iterator[set[tuple[str, str]]]:
    launched: set[tuple[str, str]] = set()
    _OVERRIDES.append((choose, launched))
    try:
        yield launched
    finally:
        _OVERRIDES.pop()


def require_precision(name: str, precision: str) -> None:
    """Raises `ValueError` for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"{name}: unknown precision: got {precision!r}; choose from {', '.join(PRECISIONS)}")


def check(name: str, precision: str, *tensors: Tensor) -> None:
    """Check that a kernel can run on these tensors. Raises `ValueError` that says what is wrong and what to do."""
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
    """Context in which the device of a tensor is current, because triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@triton.jit
def _cut(x):  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    """float32 with the mantissa of tf32: the last 13 bits are cleared, as tensor cores ignore them."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def product(a, b, accumulator, PRECISION: tl.constexpr, EMULATED: tl.constexpr):  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    """`accumulator + a · b`, (n, k) · (k, m), float32, all sizes at least 16, in the given precision.

    The interpreter always multiplies in float32, so there (`EMULATED`) the operands are cut to the bits that tensor cores
    use. Triton's rounding of an operand to tf32 is no worse than cutting.
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
