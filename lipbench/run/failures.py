"""How a part of a measurement failed, told from an exception, or from what a process wrote before its end."""

from __future__ import annotations

from lipbench import errors
from lipbench.store.rounds import Part

REASON_CHARACTERS = 500
OUT_OF_MEMORY_SIGNS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "outofmemoryerror", "memoryerror", "bad_alloc",
    "failed to map segment", "alloc_failed", "thread creation failed", "unable to allocate",
)  # fmt: skip
"""How PyTorch, CUDA libraries, the dynamic loader and the C++ runtime say that memory is used up."""


def of_exception(error: BaseException) -> Part:
    """The status and one-line reason of what was raised; an error of this package says what to do, and is `unsupported`."""
    if isinstance(error, errors.LipbenchError):
        return Part("unsupported", str(error).partition("\n")[0])
    name = type(error).__name__
    status = "out_of_memory" if is_out_of_memory(f"{name}: {error}") else "raised"
    return Part(status, f"{name}: {last_line(str(error))}".removesuffix(": "))


def is_out_of_memory(text: str) -> bool:
    """Whether a text says that memory is used up."""
    lowered = text.lower()
    return any(sign in lowered for sign in OUT_OF_MEMORY_SIGNS)


def last_line(text: str) -> str:
    """The last line that has a letter or digit, cut to `REASON_CHARACTERS`; "" if there is none."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1][:REASON_CHARACTERS] if lines else ""
