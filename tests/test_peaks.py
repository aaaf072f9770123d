"""Peaks of phases, from the counters of a simulated GPU allocator and from events of a CPU allocator."""

from __future__ import annotations

import pytest
import torch

from lipbench.meters import gpu as nvml
from lipbench.meters import peaks

WORKSPACE = 2**25
HELD = 1024
"""bytes of weights and input"""


class Gpu:
    """An allocator like PyTorch's: it counts bytes in use, and keeps a workspace for each thread that multiplies matrices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.in_use = self.peak = HELD
        self.hidden = 0
        """bytes that a layer keeps outside its parameters and buffers"""
        self.workspaces: dict[str, int] = {}
        self.cached = self.results = 0
        self.log: list[str] = []
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda name=name: self.log.append(name))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: self.in_use)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: self.peak)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2 * self.peak)
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", self.clear_workspaces, raising=False)
        monkeypatch.setattr(nvml, "read_process_bytes", lambda: 7)

    def reset(self) -> None:
        self.log.append("reset")
        self.peak = self.in_use

    def take(self, size: int) -> None:
        self.in_use += size
        self.peak = max(self.peak, self.in_use)

    def clear_workspaces(self) -> None:
        assert self.log[-1] == "synchronize", "somebody may still use them"
        self.in_use -= sum(self.workspaces.values())
        self.workspaces.clear()

    def multiply(self, thread: str) -> None:
        if thread not in self.workspaces:
            self.workspaces[thread] = WORKSPACE
            self.take(WORKSPACE)

    # ------------------------------------------------------------------------------------------- a layer with a cache

    def forget(self) -> None:
        self.in_use -= self.results
        self.results = 0

    def empty(self) -> None:
        self.forget()
        self.in_use -= self.cached
        self.cached = 0

    def forward(self) -> None:
        self.multiply("main")
        self.take(300)
        self.in_use -= 100
        self.results = 200

    def backward(self) -> None:
        self.multiply("autograd")
        self.take(500)
        self.in_use -= 700
        self.results = 0

    def inference(self) -> None:
        self.multiply("main")
        if not self.cached:
            self.cached = 64
            self.take(64)
        self.take(10)
        self.results = 10

    def stages(self) -> list[peaks.Stage]:
        return [
            ("forward", self.forget, self.forward),
            ("backward", lambda: None, self.backward),
            ("first_inference", self.empty, self.inference),
            ("inference", self.forget, self.inference),
        ]


def test_totals_on_a_gpu_are_what_is_held_and_what_comes_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    found, workspace_bytes = peaks.on_cuda(gpu.stages(), HELD, gpu.empty)
    totals = {phase: peak.total_bytes - HELD for phase, peak in found.items()}
    assert totals == {"forward": 300, "backward": 700, "first_inference": 74, "inference": 74}
    above = {phase: peak.above_baseline_bytes for phase, peak in found.items()}
    assert above == {"forward": 300, "backward": 500, "first_inference": 74, "inference": 10}
    assert workspace_bytes == 2 * WORKSPACE
    assert gpu.in_use == HELD, "all is left as it was found"
    assert found["forward"].reserved_bytes == 2 * (HELD + 2 * WORKSPACE + 300)
    assert found["forward"].process_bytes == 7


def test_workspaces_are_what_can_be_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    gpu.take(4096)  # an attribute of a layer, or the rest of a block that was not split
    found, workspace_bytes = peaks.on_cuda(gpu.stages(), HELD, gpu.empty)
    assert workspace_bytes == 2 * WORKSPACE
    assert found["forward"].total_bytes == HELD + 300
    monkeypatch.delattr(torch._C, "_cuda_clearCublasWorkspaces")
    found, workspace_bytes = peaks.on_cuda(gpu.stages(), HELD, gpu.empty)
    assert workspace_bytes is None
    assert found["forward"].total_bytes == HELD + 300


def test_a_phase_begins_with_no_work_under_way_and_nothing_cached_by_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    peaks.on_cuda(gpu.stages()[:2], HELD, gpu.empty)
    one = ["synchronize", "empty_cache", "reset", "synchronize"]
    assert gpu.log == ["synchronize", *one, *one, "synchronize"]


def test_peak_between_two_moments() -> None:
    changes = [(1, 100), (2, 50), (3, -50), (5, 10), (6, 30), (6, -30), (7, 5), (9, 1000)]
    assert peaks._baseline_and_peak(changes, 4, 8) == (100, 140)
    assert peaks._baseline_and_peak(changes, 8, 8) == (115, 115)  # nothing allocated inside
    assert peaks._baseline_and_peak([], 4, 8) == (0, 0)
    assert peaks._baseline_and_peak([(5, -70), (6, 20)], 4, 8) == (0, 0)  # frees older blocks
