"""Memory of the C library that a process has freed: kept for its next allocation, in place of returned to the system.

PyTorch allocates on a CPU by `malloc`. That of glibc returns freed memory to the system and gets it back page by page: each
page of 4 kB is a fault, of about a microsecond in a virtual machine. How many there are depends on what the process has
allocated before, so that one call takes longer in one process than in another (`python -m bench.freed_memory`). On a GPU,
PyTorch's own allocator keeps memory. A preloaded allocator in place of glibc's does not hear of the settings.
"""

from __future__ import annotations

import ctypes
import functools
import sys

_SETTINGS = (
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: bytes that are free at the heap's end before it shrinks
    (-2, 2**26),  # M_TOP_PAD: bytes by which it grows beyond what is needed
    (-4, 0),  # M_MMAP_MAX: how many blocks may have a mapping of their own, which ends with the block
)
"""parameters of `mallopt` in glibc's malloc.h, and their values"""


@functools.cache
def keep_freed_memory() -> bool:
    """Have this process keep what it frees, until it ends. Returns whether the C library lets one choose: glibc does."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(name, value) == 1 for name, value in _SETTINGS)


def freed_memory() -> str:
    """What this process does with freed memory from now on: 'kept', or 'returned' where it cannot keep it."""
    return "kept" if keep_freed_memory() else "returned"
