"""Shared parts of the kernels for small matrices: one program holds one matrix, in a square block, and reads it in slices.

A matrix of 64 × 64 is 16 KiB, and a program reads the same few matrices repeatedly, so it finds them in the level-1
cache. Operands held whole in registers instead spilled in the gradients, in tf32x3 from 32 × 32 on (triton 3.7, sm_80 to
sm_100). Slices of the inner dimension need no stack. Above 64 one multiprocessor per matrix is too little: PyTorch's batched
products spread a matrix over several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import triton
from torch import Tensor
from torch.nn import functional
from triton import language as tl

from lipbench_kernels.launching import PRECISIONS, Config, Tuned, Variant, interpreted, tuned

LARGEST = 64
"""in every precision"""

CONFIGS: dict[str, Config] = {
    "warps2": Config({"INNER": 16}, warps=2, stages=1),
    "warps4": Config({"INNER": 16}, warps=4, stages=1),
    "warps8": Config({"INNER": 16}, warps=8, stages=1),
    "warps16": Config({"INNER": 16}, warps=16, stages=1),
}
"""INNER is the depth of a slice. There is one stage: a slice is in the cache already, and an early copy of it could be made
before the barrier after which it is written."""

Serving = Mapping[int, tuple[str, ...]]
"""Side of the block → its possible configurations."""


def block_of(size: int) -> int:
    """Side of the block that a matrix is padded to with zeros: a power of two, 16 at least."""
    return max(16, 1 << (size - 1).bit_length())


def padded(matrices: Tensor, block: int) -> Tensor:
    """(…, r, c) → contiguous (…, block, block), padded with zeros, which do not mix with the matrix in any product.

    A kernel with masks instead keeps twice as many addresses in registers, and spills.
    """
    r, c = matrices.shape[-2:]
    return functional.pad(matrices, (0, block - c, 0, block - r)).contiguous()


def tuned_by_block(function: Any, serving: Serving) -> dict[int, Tuned]:
    """A kernel for every side of the block, tuned over its possible configurations."""
    key = ["BLOCK", "PRECISION"]
    return {block: tuned(function, {name: CONFIGS[name] for name in names}, key) for block, names in serving.items()}


def constants_of(block: int, precision: str) -> dict[str, Any]:
    """The constexpr arguments that no configuration sets."""
    return {"BLOCK": block, "PRECISION": precision, "EMULATED": interpreted()}


def variants_of(
    name: str, function: Any, serving: Serving, pointers: tuple[str, ...], scalars: Mapping[str, str]
) -> Iterator[Variant]:
    """Every block × configuration × precision."""
    for block, names in serving.items():
        for config in names:
            for precision in PRECISIONS:
                layout = CONFIGS[config]
                constants = {"BLOCK": block, **layout.constants, "PRECISION": precision, "EMULATED": False}
                signature = {**dict.fromkeys(pointers, "*fp32"), **scalars, **dict.fromkeys(constants, "constexpr")}
                shape = f"{block} × {block}"
                yield Variant(name, config, precision, function, signature, constants, layout.warps, layout.stages, shape)


@triton.jit
def replace(pointers, values):  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    """Store values that all threads of the program read next, after all have read the old ones."""
    tl.debug_barrier()
    tl.store(pointers, values)
    tl.debug_barrier()
