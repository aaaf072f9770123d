"""The GPU resources of a kernel, found without a GPU: it is compiled for a named architecture and the machine code is read.

Registers, stack and static shared memory are read from the cubin by `cuobjdump`, which triton's wheel includes; the shared
memory that a launch requests is triton's own figure. Threads keep values that do not fit their registers on a stack in the
device's memory. A stack of a few registers is a remark, because compiler versions differ by that much; a stack that holds an
accumulator is a failure (`MOST_STACK_BYTES`). `machine_code` tells how fast the program's busiest loop can be issued.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lipbench_kernels import machine_code
from lipbench_kernels.launching import Variant, interpreted

MOST_SHARED_BYTES = {
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
}
"""architecture → shared memory that one program may have (CUDA C++ Programming Guide, technical specifications)"""
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""of A100, H100 and B200"""
WARP_THREADS = 32
ALIGNMENT_BYTES = 16
"""the alignment that PyTorch's allocator gives every tensor, and that triton compiles for"""


class CannotCompileError(RuntimeError):
    """This process cannot compile, or the result cannot be read. The text is one line: what is wrong, what to do."""


MOST_STACK_BYTES = 32
"""per thread, of a usable variant: eight of the 64 to 255 values that a thread holds. Triton 3.6.0 and 3.9.0 leave 8 to 24
bytes in a few programs in which 3.7.1 leaves none: addresses that are spilled before a loop and read after it. An accumulator
that does not fit takes 100 bytes and more, and is read and written in every iteration of the loop."""
TESTED_TRITON = "3.7.1"
"""the version whose code is tested to have no stack at all; as in constraints.txt"""


@dataclass(frozen=True)
class Resources:
    """The resources of one program of a compiled variant."""

    variant: Variant
    architecture: str
    registers: int
    """per thread"""
    stack_bytes: int
    """per thread, in the device's memory"""
    shared_bytes: int
    """per program"""
    spills: int
    """instructions that write to the stack or read from it"""
    loop_instructions: int = 0
    """that a warp issues for one iteration of its busiest loop; 0 where no loop with products is found"""
    loop_macs: int = 0
    """multiply-accumulates of a warp in that iteration, as its instructions name them: three for one of tf32x3"""

    @property
    def fits(self) -> bool:
        """Whether the architecture has enough shared memory; otherwise every launch fails."""
        return self.shared_bytes <= MOST_SHARED_BYTES[self.architecture]

    @property
    def ships(self) -> bool:
        """Whether the variant may be used on the architecture: it fits and uses at most `MOST_STACK_BYTES` of stack."""
        return self.fits and self.stack_bytes <= MOST_STACK_BYTES


@dataclass(frozen=True)
class Usage:
    """A line of `cuobjdump --dump-resource-usage`, in bytes."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    """fixed when compiled; from sm_90 up, the part that the system reserves"""


def compiled(variant: Variant, architecture: str) -> Any:
    """Triton's compiled kernel of a variant for an architecture such as 'sm_90'. Needs no GPU; triton's cache keeps it.

    A launch of the same variant on that architecture finds it in the cache: sizes are not part of a program, and all pointers
    are multiples of 16 bytes except those in `Variant.unaligned`. Raises `CannotCompileError` as `measure` does.
    """
    _require(architecture)
    return triton.compile(
        ASTSource(variant.function, dict(variant.signature), dict(variant.constants), _alignments(variant)),
        target=GPUTarget("cuda", int(architecture.removeprefix("sm_")), WARP_THREADS),
        options={"num_warps": variant.warps, "num_stages": variant.stages},
    )


def measure(variant: Variant, architecture: str) -> Resources:
    """Compile a variant for an architecture such as 'sm_90' and read what it takes. Needs no GPU.

    Raises `CannotCompileError` for an architecture that is not known, in interpreter mode, and where cuobjdump is missing.
    """
    program = compiled(variant, architecture)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(program.asm["cubin"])
        usage = parse_usage(_cuobjdump("--dump-resource-usage", cubin))
        code = _cuobjdump("--dump-sass", cubin)
    shared_bytes = usage.shared_bytes + int(program.metadata.shared)
    loop = machine_code.busiest_loop(code)
    return Resources(
        variant, architecture, usage.registers, usage.stack_bytes, shared_bytes, machine_code.count_spills(code),
        loop.instructions, loop.macs,
    )  # fmt: skip


def measure_all(
    variants: Iterable[Variant],
    architectures: Sequence[str],
    processes: int,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Resources]:
    """`measure` every variant for every architecture, in that order, with so many processes. Raises what `measure` raises.

    The variants' functions must be found by name in the modules that define them. `tell` is called before each program is
    waited for, with how many are done, of how many, and the architecture.
    """
    for architecture in architectures:
        _require(architecture)
    jobs = [(variant, architecture) for variant in variants for architecture in architectures]
    found = []
    with contextlib.ExitStack() as stack:
        waiting: list[Callable[[], Resources]]
        if processes == 1 or len(jobs) < 2:
            waiting = [functools.partial(measure, *job) for job in jobs]
        else:
            pool = stack.enter_context(_fresh_processes(min(processes, len(jobs))))
            waiting = [pool.submit(_measure_named, *_sendable(*job)).result for job in jobs]
        for number, (wait_for, (variant, architecture)) in enumerate(zip(waiting, jobs)):
            tell(number, len(jobs), architecture)
            found.append(replace(wait_for(), variant=variant))
    return found


def compile_all(variants: Sequence[Variant], architecture: str, processes: int, timeout_s: float | None = None) -> int:
    """Compile every variant by `compiled`, with so many processes, for later launches; return how many were compiled.

    No compilation begins after `timeout_s`. Raises what `compiled` raises.
    """
    _require(architecture)
    with _fresh_processes(min(processes, len(variants))) as pool:
        jobs = [pool.submit(_compile_named, *_sendable(variant, architecture)) for variant in variants]
        made, late = wait(jobs, timeout_s, FIRST_EXCEPTION)
        for job in late:
            job.cancel()
        for job in made:
            job.result()
    return sum(not job.cancelled() for job in jobs)


def _fresh_processes(count: int) -> ProcessPoolExecutor:
    """Processes that are not forked, because a fork of a process with torch's threads may hang."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def _sendable(variant: Variant, architecture: str) -> tuple[Variant, str, str, str]:
    """A job that can be sent to another process: the function is given by the names of its module and itself."""
    function = variant.function.fn
    return replace(variant, function=None), function.__module__, function.__qualname__, architecture


def _measure_named(variant: Variant, module: str, name: str, architecture: str) -> Resources:
    found = measure(_with_function(variant, module, name), architecture)
    return replace(found, variant=variant)


def _compile_named(variant: Variant, module: str, name: str, architecture: str) -> None:
    compiled(_with_function(variant, module, name), architecture)


def _with_function(variant: Variant, module: str, name: str) -> Variant:
    return replace(variant, function=getattr(importlib.import_module(module), name))


def _alignments(variant: Variant) -> dict[tuple[int], list[list[Any]]]:
    """The properties of a launch's arguments, in triton's form; the machine code depends on them.

    Constants and unaligned pointers have an empty entry, which does not change the code but is part of the cache key. Of the
    constants, triton 3.6 enters only texts.
    """
    texts_alone = triton.__version__.startswith("3.6.")
    known: dict[tuple[int], list[list[Any]]] = {}
    for place, (name, kind) in enumerate(variant.signature.items()):
        if kind.startswith("*"):
            known[(place,)] = [] if name in variant.unaligned else [["tt.divisibility", ALIGNMENT_BYTES]]
        elif kind == "constexpr" and (not texts_alone or isinstance(variant.constants[name], str)):
            known[(place,)] = []
    return known


def _require(architecture: str) -> None:
    if interpreted():
        raise CannotCompileError(
            "kernels cannot be compiled in a process that interprets them: got TRITON_INTERPRET=1; "
            "unset it for compiling, and keep it for checking results."
        )
    if architecture not in MOST_SHARED_BYTES:
        raise CannotCompileError(f"unknown architecture: got {architecture!r}; choose from {', '.join(MOST_SHARED_BYTES)}.")


# ------------------------------------------------------------------------------------------------------------ the cubin


def _cuobjdump(option: str, cubin: Path) -> str:
    """What triton's cuobjdump prints of a cubin. Raises `CannotCompileError` if there is none, or if it cannot read that."""
    try:
        tool = triton.knobs.nvidia.cuobjdump.path
        return subprocess.run([tool, option, str(cubin)], capture_output=True, text=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        why = " ".join(error.stderr.split())
        raise CannotCompileError(f"cuobjdump cannot read the machine code: got {why!r}; install another triton.") from error
    except (RuntimeError, OSError) as error:
        raise CannotCompileError(
            "cuobjdump was not found: got none in triton's wheel; "
            "name one by TRITON_CUOBJDUMP_PATH, or install triton's wheel for Linux."
        ) from error


_USAGE = re.compile(r"\bREG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)\b")


def parse_usage(text: str) -> Usage:
    """The usage of the one kernel that `cuobjdump --dump-resource-usage` printed. Raises `CannotCompileError` for other text.

    Arrays that a thread keeps in local memory (LOCAL, where a compiler lists them apart) count as stack.
    """
    lines: Iterator[tuple[str, ...]] = (match.groups() for match in _USAGE.finditer(text))
    found = [tuple(map(int, line)) for line in lines]
    if len(found) != 1:
        raise CannotCompileError(
            f"cuobjdump printed no resources of a kernel: got {len(found)} lines with registers; install another triton."
        )
    registers, stack, shared, local = found[0]
    return Usage(registers, stack + local, shared)
