"""Measurements that fail one by one: what raises is left out with its reason, and the others stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch

from lipbench.quantities import PHASES, Caution

T = TypeVar("T")
REASON_CHARACTERS = 300
_FATAL: tuple[type[BaseException], ...] = (torch.OutOfMemoryError, torch.AcceleratorError)
"""errors after which the caller must free memory, or the device is unusable; they are passed on"""


class Attempts:
    """Runs parts of a measurement, and keeps the reason of each that raised."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        """what was attempted → the type and the first line of the exception"""
        self._first: Exception | None = None

    def __call__(self, what: str, run: Callable[[], T]) -> T | None:
        """The result of `run()`, or None if it raised. Lack of GPU memory and faults of the device are raised."""
        try:
            return run()
        except _FATAL:
            raise
        except Exception as error:  # an external layer may raise anything
            self.failures.setdefault(what, reason(error))
            self._first = self._first or error.with_traceback(None)  # a traceback would keep tensors alive
            return None

    def raise_first(self) -> None:
        """Raise the first exception again, for a caller to whom nothing is left."""
        if self._first is not None:
            raise self._first


def reason(error: Exception) -> str:
    """The type and the first line of an exception, as one line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}".removesuffix(": ")[:REASON_CHARACTERS]


def warnings(quantity: str, failures: Mapping[str, str]) -> Iterator[Caution]:
    """A warning for each failure: its phase is the one that failed, or none if all are concerned."""
    for what, why in failures.items():
        phases = (what,) if what in PHASES else ("step",) if what == "update" else ()
        yield Caution("uncounted", phases, f"{quantity} ({what}) could not be counted: {why}; the other numbers stand")
