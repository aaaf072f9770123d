"""An executor that measures in this process: for layers that no other process can build."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lipbench import registry
from lipbench.cases import Case, Limits
from lipbench.run import failures, measure
from lipbench.run.executor import Place, Wanted
from lipbench.run.survey import find_device
from lipbench.store.benchmark_json import ONE_PROCESS
from lipbench.store.rounds import Round

FRESH = "this process"


class InProcess:
    """Measures rounds in this process, one at a time, with the threads that PyTorch has. See `executor.Executor`.

    Time-outs are not enforced, and a crash ends the process. Ctrl-C ends the run after the part that is being measured.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()

    def survey(self, wanted: Wanted) -> Place:
        """This process. Raises `LipbenchError` as the other executors do."""
        chosen, gpu = find_device(wanted)
        with FakeTensorMode():
            pass  # PyTorch 2.11, built for CUDA and without a driver, crashes if the first such mode begins in another thread
        return Place(chosen, gpu, torch.get_num_threads(), FRESH, registry.lacking(wanted.methods, wanted.implementations))

    def run_round(self, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
        """What `measure.measure` finds, with a warning that it is one process."""
        with self._one_at_a_time, _interruptible():
            try:
                found = measure.measure(case, limits, parts, failed=failed)
            except Exception as error:  # an external layer may raise anything
                part = failures.of_exception(error)
                started = datetime.now(UTC).isoformat(timespec="seconds")
                return Round(part.status, part.reason, started=started, traceback=part.traceback)
        machine = found.machine and replace(found.machine, flags={**found.machine.flags, "process": FRESH})
        return replace(found, machine=machine, warnings=(*found.warnings, *([ONE_PROCESS] if found.phases else [])))

    def stop(self) -> None:
        """Do nothing: no other process is running."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raises `KeyboardInterrupt` at the end of a block in which Ctrl-C was pressed and taken for an error of the layer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = []
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
