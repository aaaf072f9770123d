"""All kernels."""

from __future__ import annotations

from lipbench_kernels import aol_bound, bjorck, newton, soc_series
from lipbench_kernels.launching import Kernel

KERNELS: tuple[Kernel, ...] = (*aol_bound.KERNELS, *soc_series.KERNELS, *bjorck.KERNELS, *newton.KERNELS)
"""every kernel, grouped by hot spot"""


def find(name: str) -> Kernel:
    """The kernel of that name. Raises `KeyError` for an unknown name."""
    return {kernel.name: kernel for kernel in KERNELS}[name]
