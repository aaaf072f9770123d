"""The description of the machine, and its use by other processes."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import pytest
import torch

from lipbench.meters import gpu, machine
from lipbench.meters.machine import CpuTimes, OwnUse, Watch

STAT = """cpu  1000 20 300 90000 50 6 70 8 400 0
cpu0 500 10 150 45000 25 3 35 4 200 0
cpu1 500 10 150 45000 25 3 35 4 200 0
intr 12345 0 0
"""


def test_cpu_times_add_up_what_is_busy(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(STAT)
    times = machine.read_cpu_times(stat)
    assert times.cores == 2
    assert times.busy_s == pytest.approx((1000 + 20 + 300 + 6 + 70 + 8) * times.resolution_s)


def test_without_proc_stat_psutil_is_asked(tmp_path: Path) -> None:
    fallback = machine.read_cpu_times(tmp_path / "absent")
    direct = machine.read_cpu_times()
    assert fallback.cores == direct.cores
    assert fallback.busy_s == pytest.approx(direct.busy_s, rel=0.2)


def watched(busy_s: float, own_s: float, wall_s: float = 1.0, cores: int = 2, threads: int = 1) -> Watch:
    """A watch over a simulated second: all cores together were busy for `busy_s`, this process for `own_s`."""
    cpu = iter([CpuTimes(100.0, cores, 0.01), CpuTimes(100.0 + busy_s, cores, 0.01)])
    own = iter([OwnUse(5.0, 7), OwnUse(5.0 + own_s, 10)])
    clock = iter([50.0, 50.0 + wall_s])
    with Watch("cpu", threads, lambda: next(cpu), lambda: next(own), lambda: next(clock)) as watch:
        pass
    return watch


def test_a_quiet_machine_is_not_contended() -> None:
    contention = watched(busy_s=1.0, own_s=0.98).contention
    assert not contention.contended
    assert contention.own_share == pytest.approx(0.98)
    assert contention.foreign_share == pytest.approx((1.0 - 0.98 - 0.01) / 2)
    assert contention.involuntary_switches == 3


def test_one_busy_neighbour_is_contended() -> None:
    contention = watched(busy_s=1.9, own_s=0.95).contention
    assert contention.contended
    assert contention.foreign_share == pytest.approx((1.9 - 0.95 - 0.01) / 2)


def test_one_tick_is_within_the_resolution_of_the_counter() -> None:
    assert watched(busy_s=0.02, own_s=0.01, wall_s=0.02).contention.foreign_share == pytest.approx(0.0, abs=1e-9)


def test_own_share_is_per_thread() -> None:
    assert watched(busy_s=2.0, own_s=2.0, threads=2).contention.own_share == pytest.approx(1.0)


def test_own_work_counts_as_own() -> None:
    with Watch("cpu", 1) as watch:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert 0 < watch.contention.own_share <= 1.2


def test_description_of_this_machine() -> None:
    found = machine.describe("cpu", threads=1)
    assert found.torch == torch.__version__
    assert found.cpu
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert found.packages["torch"]
    assert found.gpu is None
    assert found.flags["threads"] == "1"
    assert {"matmul_precision", "convolution_precision", "cudnn_benchmark"} <= set(found.flags)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_the_older_and_the_newer_settings_of_precision_agree(precision: str) -> None:
    with machine.exact_products():  # restores the settings
        machine.set_precision(precision)
        tf32 = precision == "tf32"
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        flags = machine.describe("cpu", 1).flags
        assert flags["matmul_precision"] == flags["convolution_precision"] == ("tf32" if tf32 else "ieee")


def test_ieee_holds_whatever_was_set_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    with machine.exact_products():
        flags = machine.describe("cpu", 1).flags
        assert flags["matmul_precision"] == flags["convolution_precision"] == "ieee"
    assert torch.backends.fp32_precision == "tf32"


class _Gpu(types.SimpleNamespace):
    name, total_memory = "a GPU", 2**36


@pytest.mark.parametrize(("more", "l2_bytes", "uuid"), [({"L2_cache_size": 9, "uuid": "1-a"}, 9, "1-a"), ({}, None, None)])
def test_a_gpu_is_described_as_far_as_it_is_known(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object], l2_bytes: int | None, uuid: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: _Gpu(**more))
    found = machine.describe("cuda", 1)
    assert (found.gpu, found.gpu_memory_bytes, found.gpu_l2_bytes) == ("a GPU", 2**36, l2_bytes)
    assert (found.gpu_uuid, found.driver) == (uuid, None)


@pytest.mark.parametrize("slowed", [True, False])
def test_what_the_gpu_shows_is_part_of_the_look(monkeypatch: pytest.MonkeyPatch, slowed: bool) -> None:
    seen = gpu.Use(0, 0.5, () if slowed else ("power limit",))
    monkeypatch.setattr(gpu, "read_use", lambda: seen)
    with Watch("cuda", 1, lambda: CpuTimes(1.0, 1, 0.01), lambda: OwnUse(1.0, 0)) as watch:
        pass
    found = watch.contention
    assert (found.gpu_processes, found.gpu_clock_share, found.gpu_clock_limited_by) == (0, 0.5, seen.clock_limited_by)
    assert found.contended is slowed
    assert watched(busy_s=1.0, own_s=1.0).contention.gpu_clock_share is None, "nobody asks for a GPU on a CPU"
