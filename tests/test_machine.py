"""The machine is described, and others on it are seen."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import pytest
import torch

from lipbench.meters import machine
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
    """A watch over a made-up second: all cores together were busy for `busy_s`, this process for `own_s`."""
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
    with machine.exact_products():  # puts back what was set
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


class _FakeNvml(types.ModuleType):
    """As much of pynvml as is asked, for a GPU with a second process on it and a low clock."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, pids: list[int], clock: int = 900) -> None:
        super().__init__("pynvml")
        self.pids, self.clock, self.open = pids, clock, 0
        self.uuid = ""

    def nvmlInit(self) -> None:  # noqa: N802 (the name is NVML's)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.uuid = uuid
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[types.SimpleNamespace]:  # noqa: N802
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=1000 + pid) for pid in self.pids]

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return 1800


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.usefixtures("gpu")
def test_nvml_sees_neighbours_and_low_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _FakeNvml(pids=[1, 2])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Watch("cuda", 1, lambda: CpuTimes(1.0, 1, 0.01), lambda: OwnUse(1.0, 0)) as watch:
        pass
    assert nvml.uuid == "GPU-1234-abcd"
    assert watch.contention.gpu_processes == 1
    assert watch.contention.gpu_clock_share == pytest.approx(0.5)
    assert watch.contention.contended
    assert nvml.open == 0


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("pids", "expected"), [([], None), ([77], 1077), ([77, 78], None)])
def test_process_bytes_of_a_container(monkeypatch: pytest.MonkeyPatch, pids: list[int], expected: int | None) -> None:
    monkeypatch.setattr("os.getpid", lambda: 5)
    monkeypatch.setitem(sys.modules, "pynvml", _FakeNvml(pids))
    assert machine.read_gpu_process_bytes() == expected


@pytest.mark.usefixtures("gpu")
def test_without_nvml_nothing_is_known_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    assert machine.read_gpu_use() == (None, None)
    assert machine.read_gpu_process_bytes() is None
