"""Status and reason of a failed part, derived from an exception or from the last output of a process."""

from __future__ import annotations

from lipbench import errors, traces
from lipbench.store.rounds import Part

OUT_OF_MEMORY_SIGNS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "outofmemoryerror", "memoryerror", "bad_alloc",
    "failed to map segment", "alloc_failed", "thread creation failed", "unable to allocate",
)  # fmt: skip
"""Out-of-memory messages of PyTorch, CUDA libraries, the dynamic loader and the C++ runtime."""


def of_exception(error: BaseException) -> Part:
    """The status, one-line reason and traceback for an exception; an error of this package gives `unsupported`."""
    if isinstance(error, errors.LipbenchError):
        return Part("unsupported", traces.message(error).partition("\n")[0], traces.of_cause(error))
    name = type(error).__name__
    status = "out_of_memory" if is_out_of_memory(f"{name}: {traces.message(error)}") else "raised"
    return Part(status, traces.line(error), traces.text(error))


def is_out_of_memory(text: str) -> bool:
    """Whether a text reports that memory ran out."""
    lowered = text.lower()
    return any(sign in lowered for sign in OUT_OF_MEMORY_SIGNS)
