"""Time of each part of a module in the running whole: the clock is read whenever another part begins to work.

On a GPU, events are recorded in place of readings, so that the device never waits for the host.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.meters.machine import Watch
from lipbench.meters.places import BETWEEN, parts

Phases = Mapping[str, Callable[[], object]]
Times = dict[tuple[str, str], float]
"""(phase, path of a part) → seconds; the path is `BETWEEN` for what runs outside all parts"""


@dataclass(frozen=True)
class PartTimes:
    """Medians over the iterations of one process."""

    parts_s: Times
    whole_s: dict[str, float]
    """phase → seconds, measured in other iterations without a clock at every part"""
    turns: int
    """number of iterations with a clock at every part, and of those without"""
    contended: bool
    """whether other processes used the machine meanwhile"""


@dataclass
class _Clock:
    """Reads the time, or records an event where the device is a GPU; `seconds` between two readings are known in the end."""

    device: str

    def read(self) -> Any:
        if self.device != "cuda":
            return time.perf_counter_ns()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch gives it no types
        event.record()
        return event

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end) * 1e-3 if self.device == "cuda" else (end - begin) * 1e-9)


class Stopwatch:
    """Adds up the time of each part by marks, from each of which on one part is at work. Its block has the hooks of all parts.

    A part's backward pass begins when the gradient of its output is ready, and lasts until another part's begins: autograd runs
    the nodes of one part, those of its parameter half included, before the nodes of parts that came earlier.
    """

    def __init__(self, module: nn.Module, device: str) -> None:
        self._parts = dict(parts(module))
        self._clock = _Clock(device)
        self._hooks: list[Any] = []
        self._marks: list[tuple[str, str, Any]] = []
        self._phase = ""
        self._marked: set[Any] = set()
        """nodes of autograd at which a mark is made"""

    def __enter__(self) -> Stopwatch:
        for path, part in self._parts.items():
            self._hooks.append(part.register_forward_pre_hook(partial(self._begin, path)))
            self._hooks.append(part.register_forward_hook(partial(self._end, path)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def time(self, phases: Phases) -> Times:
        """Run the phases in order; the seconds of each phase and part in this iteration."""
        self._marks, self._marked = [], set()
        self._clock.wait()
        for self._phase, run in phases.items():
            self._mark(BETWEEN)
            run()
        self._mark(BETWEEN)
        self._clock.wait()
        found: Times = {}
        for (phase, path, begin), (_, _, end) in zip(self._marks, self._marks[1:]):
            found[phase, path] = found.get((phase, path), 0.0) + self._clock.seconds(begin, end)
        self._marks, self._marked = [], set()
        return found

    def _mark(self, path: str, *_: object) -> None:
        self._marks.append((self._phase, path, self._clock.read()))

    def _begin(self, path: str, part: nn.Module, given: tuple[object, ...]) -> None:
        for one in given:  # what came before the part goes on when the gradient of its input is ready
            self._mark_gradient(one, BETWEEN)
        self._mark(path)

    def _end(self, path: str, part: nn.Module, given: tuple[object, ...], output: object) -> None:
        self._mark(BETWEEN)
        self._mark_gradient(output, path)

    def _mark_gradient(self, value: object, path: str) -> None:
        """Make a mark when the gradient of a result is ready, unless its node has one: that of the part that made it."""
        if isinstance(value, Tensor) and value.grad_fn is not None and value.grad_fn not in self._marked:
            self._marked.add(value.grad_fn)
            value.register_hook(partial(self._mark, path))  # type: ignore[no-untyped-call]  # torch gives it no types


def measure(
    module: nn.Module, phases: Phases, prepare: Callable[[], object], *, device: str, threads: int, limit_s: float
) -> PartTimes:
    """Time phases of a module, in turns with and without a clock at every part, for about `limit_s` seconds.

    An iteration is `prepare()`, then each phase. The first one warms up; after it there is at least one turn of both kinds.
    """
    stopwatch = Stopwatch(module, device)
    samples: dict[tuple[str, str], list[float]] = {}
    wholes: dict[str, list[float]] = {phase: [] for phase in phases}
    prepare()
    stopwatch.time(phases)
    turns, begin = 0, time.monotonic()
    with Watch(device, threads) as watch:
        while not turns or time.monotonic() - begin < limit_s:
            prepare()
            with stopwatch:
                for key, value in stopwatch.time(phases).items():
                    samples.setdefault(key, []).append(value)
            prepare()
            for (phase, _), value in stopwatch.time(phases).items():
                wholes[phase].append(value)
            turns += 1
    return PartTimes(
        {key: statistics.median(values) for key, values in samples.items()},
        {phase: statistics.median(values) for phase, values in wholes.items()},
        turns,
        watch.contention.contended,
    )
