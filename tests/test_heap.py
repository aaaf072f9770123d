"""A process that measures on a CPU keeps the memory that it frees: its calls meet no page faults after the first ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import freed_memory
from lipbench.meters import heap, machine
from lipbench.quantities import FREED_MEMORY

PROGRAM = """
import resource, sys
import torch
from lipbench.meters.clocks import CpuSampler

x = torch.randn(64, 2**14)
def call():
    return [x + 1 for _ in range(32)]
if "keep" in sys.argv:
    CpuSampler({"call": call}, lambda: None)
for turn in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(not heap.keep_freed_memory(), reason="not glibc")


def faults(*arguments: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True).stdout)


@glibc
def test_a_sampled_process_meets_no_page_faults() -> None:
    """Another process meets some in every call: 128 MB of results are given back to the system, and taken from it again."""
    kept, usual = faults("keep"), faults()
    assert kept < 20
    assert usual > kept


@glibc
def test_a_machine_says_so_on_a_cpu() -> None:
    assert machine.describe("cpu", 1).flags[FREED_MEMORY] == heap.freed_memory() == "kept"


def test_both_ways_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(freed_memory, "PROCESSES", 1)
    sizes = ["--channels", "4", "--image-size", "6", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", ["bench", "--method", "standard", *sizes])
    freed_memory.main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", "phase", "returned", "faults", "kept", "faults", "ratio"]
    assert [row.split()[:2] for row in rows] == [["standard", "forward"], ["standard", "backward"]]
    assert all(float(row.split()[2]) > 0 and float(row.split()[-1]) > 0 for row in rows)


def test_what_cannot_be_chosen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    heap.keep_freed_memory.cache_clear()
    try:
        assert machine.describe("cpu", 1).flags[FREED_MEMORY] == "returned"
    finally:
        heap.keep_freed_memory.cache_clear()
