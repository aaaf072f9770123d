"""Status and reason of a failed part, derived from an exception or from the last output of a process."""

from __future__ import annotations

from lipbench import errors
from lipbench.store.rounds import Part

REASON_CHARACTERS = 500
OUT_OF_MEMORY_SIGNS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "outofmemoryerror", "memoryerror", "bad_alloc",
    "failed to map segment", "alloc_failed", "thread creation failed", "unable to allocate",
)  # fmt: skip
"""Out-of-memory messages of PyTorch, CUDA libraries, the dynamic loader and the C++ runtime."""


def of_exception(error: BaseException) -> Part:
    """The status and one-line reason for an exception; an error of this package gives `unsupported`."""
    if isinstance(error, errors.LipbenchError):
        return Part("unsupported", str(error).partition("\n")[0])
    name = type(error).__name__
    status = "out_of_memory" if is_out_of_memory(f"{name}: {error}") else "raised"
    return Part(status, f"{name}: {last_line(str(error))}".removesuffix(": "))


def is_out_of_memory(text: str) -> bool:
    """Whether a text reports that memory ran out."""
    lowered = text.lower()
    return any(sign in lowered for sign in OUT_OF_MEMORY_SIGNS)


def last_line(text: str) -> str:
    """The last line with a letter or digit, cut to `REASON_CHARACTERS`; "" if there is none."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1][:REASON_CHARACTERS] if lines else ""
