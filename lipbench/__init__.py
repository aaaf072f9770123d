"""Profiling and micro-benchmarks for 1-Lipschitz neural network layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lipbench.answer import Answer
    from lipbench.api import (
        Run,
        breakdown,
        compare,
        complexity,
        fits,
        load,
        memory_over_time,
        methods,
        predict,
        profile,
        recommend,
        verify,
    )

__version__ = "0.1.0"
__all__ = [
    "Answer", "Run", "breakdown", "compare", "complexity", "fits", "load", "memory_over_time", "methods", "predict", "profile",
    "recommend", "verify",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """One of `__all__`, imported when it is first asked for, so that `import lipbench` takes no longer than Python itself."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lipbench import api

    found: object = getattr(api, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
