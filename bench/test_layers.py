"""Every phase of every method, at the shapes of the `quick` preset: the cases that `lipbench profile` measures by default.

Each benchmark has in its `extra_info` what `lipbench report` needs beside the times: the case, the phase, the memory and
MACs by the meters, the machine, and its contention by other processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lipbench import registry
from lipbench.cases import PRESETS, Case, LayerSpec, to_dict
from lipbench.meters import machine, macs, memory
from lipbench.meters.time import LEAST_WATCH_S, MOST_SAMPLES
from lipbench.quantities import PHASES
from lipbench.workload import Workload

PRESET = PRESETS["quick"]
SPECS = [LayerSpec(method, *shape) for shape in PRESET.layer_shapes for method in registry.methods()]
ROUNDS, WARMUP_ROUNDS = 10, 2
"""of samples, at least: enough to observe whether other processes use the machine"""


@dataclass(frozen=True)
class Subject:
    """A layer under measurement, and its data beside the times."""

    workload: Workload
    facts: dict[str, Any]
    """JSON-ready: case, memory, macs, machine"""

    def stages(self, phase: str) -> tuple[list[Callable[[], object]], Callable[[], object]]:
        """The calls that run before the clock starts, in order, and the call that is timed."""
        group = next(group for group in self.workload.groups() if phase in group.stages)
        names = list(group.stages)
        earlier = [group.stages[name] for name in names[: names.index(phase)]]
        return [group.prepare, *earlier], group.stages[phase]


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: spec.slug)
def subject(request: pytest.FixtureRequest) -> Subject:
    """The subject, built and measured once for all phases; pytest orders the benchmarks so that one subject lives at a time."""
    wanted = request.config.getoption("bench_device")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    case = Case(request.param, batch_size=PRESET.batch_size, device=device, threads=torch.get_num_threads())
    machine.set_precision(case.precision)
    torch.manual_seed(case.seed)
    workload = Workload.build(case, registry.build(case.spec))
    facts = {
        "case": to_dict(case),
        "memory": asdict(memory.measure(workload)),
        "macs": asdict(macs.measure(workload)),
        "machine": asdict(machine.describe(device, case.threads)),
    }
    return Subject(workload, facts)


def run_all(calls: list[Callable[[], object]], device: str) -> None:
    """Make the calls and, on a GPU, wait for all that they launched."""
    for call in calls:
        call()
    if device == "cuda":
        torch.cuda.synchronize()


def rounds_to_watch(once: Callable[[], object]) -> int:
    """The number of samples that last long enough for `Watch`, by the time of the second of two calls."""
    once()
    start = time.perf_counter()
    once()
    return min(MOST_SAMPLES, max(ROUNDS, math.ceil(2 * LEAST_WATCH_S / (time.perf_counter() - start))))


@pytest.mark.parametrize("phase", PHASES)
def test_phase(subject: Subject, phase: str, benchmark: BenchmarkFixture) -> None:
    case = subject.workload.case
    subject.workload.restore()
    before, timed = subject.stages(phase)
    spec = case.spec
    assert isinstance(spec, LayerSpec)
    benchmark.group = f"c{spec.channels} s{spec.image_size} k{spec.kernel_size} b{case.batch_size}: {phase}"
    benchmark.extra_info.update(subject.facts, phase=phase)
    rounds = rounds_to_watch(lambda: run_all([*before, timed], case.device))
    start = time.perf_counter()
    with machine.Watch(case.device, case.threads) as watch:
        benchmark.pedantic(  # type: ignore[no-untyped-call]  # pytest-benchmark types its fixtures, not their methods
            lambda: run_all([timed], case.device),
            setup=lambda: run_all(before, case.device),
            rounds=rounds,
            warmup_rounds=WARMUP_ROUNDS,
        )
    if time.perf_counter() - start >= LEAST_WATCH_S:  # a shorter observation cannot tell
        benchmark.extra_info["contention"] = asdict(watch.contention)
