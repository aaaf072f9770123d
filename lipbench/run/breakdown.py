"""The costs of each part of a network, in the process that runs it: counts from shapes, measured times, a trace of a step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from torch.utils.hooks import RemovableHandle

from lipbench import cases, registry
from lipbench.cases import Case
from lipbench.meters import machine, part_times, places
from lipbench.meters.part_times import PartTimes
from lipbench.prediction import parts
from lipbench.store.files import write_errors, write_file
from lipbench.workload import Workload


def times(case: Case, limit_s: float, trace: Path | None = None) -> dict[str, Any]:
    """Measure the parts of a case in this process, training and inference, as JSON-ready values; and write a trace of both.

    The trace is in Chrome's format. Raises `LipbenchError` where the case cannot be built, or the trace cannot be written.
    """
    machine.device_of(case.device)  # raises for a GPU that is not there
    machine.set_precision(case.precision)
    torch.manual_seed(case.seed)
    workload = Workload.build(case, registry.build(case.spec))
    training = {"forward": workload.forward, "backward": workload.backward, "update": workload.optimizer.step}
    found = {
        "training": _plain(_timed(workload, training, workload.prepare_training, limit_s)),
        "inference": _plain(_timed(workload, {"inference": workload.inference}, workload.prepare_inference, limit_s)),
    }
    if trace is not None:
        _write_trace(workload, trace)
    return found


def _timed(workload: Workload, phases: part_times.Phases, prepare: Callable[[], object], limit_s: float) -> PartTimes:
    workload.restore()
    case = workload.case
    return part_times.measure(workload.module, phases, prepare, device=case.device, threads=case.threads, limit_s=limit_s)


def _plain(found: PartTimes) -> dict[str, Any]:
    return {**asdict(found), "parts_s": [[*key, seconds] for key, seconds in found.parts_s.items()]}


def _write_trace(workload: Workload, path: Path) -> None:
    """The profiler's trace of one training step and one inference, with a range for every part; both have run before."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if workload.case.device == "cuda" else [])]
    stages = {
        "training step": (workload.prepare_training, workload.step),
        "inference": (workload.prepare_inference, workload.inference),
    }
    with profile(activities=activities) as profiler, _ranges(workload.module):
        for name, (prepare, run) in stages.items():
            prepare()
            with record_function(name):
                run()
    with tempfile.TemporaryDirectory() as folder, write_errors(path):
        made = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(made))
        write_file(path, made.read_bytes())


@contextmanager
def _ranges(module: nn.Module) -> Iterator[None]:
    """Within the block, the profiler sees the forward pass of each part as a range with its path and class."""
    begun: list[record_function] = []

    def begin(path: str, part: nn.Module, given: object) -> None:
        begun.append(record_function(" ".join((path, type(part).__name__))))
        begun[-1].__enter__()  # type: ignore[no-untyped-call]  # torch gives it no types

    def end(*_: object) -> None:
        begun.pop().__exit__(None, None, None)

    hooks: list[RemovableHandle] = []
    for path, part in places.parts(module):
        hooks.append(part.register_forward_pre_hook(partial(begin, path)))
        hooks.append(part.register_forward_hook(end, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer in a fresh process: the counts or the times of the parts of a case, or its memory over time."""
    case = cases.from_dict(question["case"])
    if question["about"] == "times":
        trace = question.get("trace")
        return times(case, question["limit_s"], Path(trace) if trace else None)
    if question["about"] == "counts":
        rows, remarks = parts.counted(case)
        return {"rows": rows.to_dict("records"), "remarks": remarks}
    return {name: one.to_dict("records") for name, one in zip(("moments", "held"), parts.over_time(case))}
