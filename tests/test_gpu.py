"""What NVML is asked, by a made-up one that answers, refuses, or does not know the question."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from lipbench.meters import gpu
from lipbench.quantities import Caution, Contention, Machine
from lipbench.store import typed

IDLE, POWER, HARDWARE, HOT_BY_SOFTWARE, HOT_BY_HARDWARE, BRAKE = 0x1, 0x4, 0x8, 0x20, 0x40, 0x80


class Nvml(types.ModuleType):
    """As much of pynvml as is asked. What is in `refused` raises as it does on a GPU that is virtual or partitioned."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, pids: tuple[int, ...] = (1,), clock: int = 900, reasons: int = 0, prefix: str = "GPU-") -> None:
        super().__init__("pynvml")
        self.pids, self.clock, self.reasons, self.prefix = pids, clock, reasons, prefix
        self.used: Any = 1000
        self.highest_clock = 1800
        self.open = 0
        self.refused: set[str] = set()

    def asked(self, name: str, handle: object = "handle") -> None:
        assert self.open, "before the library was opened, or after it was closed"
        assert handle == "handle"
        if name in self.refused:
            raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:  # noqa: N802 (the name is NVML's, as are those below)
        if "init" in self.refused:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1
        if "shutdown" in self.refused:
            raise self.NVMLError("Uninitialized")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked("handle")
        if uuid != f"{self.prefix}1234-abcd":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        self.asked("driver")
        return b"570.1"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[types.SimpleNamespace]:  # noqa: N802
        self.asked("processes", handle)
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=self.used) for pid in self.pids]

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        self.asked("clock", handle)
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        self.asked("highest clock", handle)
        return self.highest_clock

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        self.asked("reasons", handle)
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        self.asked("reasons by their older name", handle)
        return self.reasons


class OldNvml(Nvml):
    """One that does not have the newer question."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nvmlDeviceGetCurrentClocksEventReasons":
            raise AttributeError(name)
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    properties = types.SimpleNamespace(uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(nvml: Nvml) -> Nvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return put


def test_neighbours_and_a_low_clock_are_seen_and_nothing_stays_open(install: Any) -> None:
    nvml = install(Nvml(pids=(1, 2)))
    use = gpu.read_use()
    assert use == gpu.Use(processes=1, clock_share=0.5)
    assert use.shows_others
    assert nvml.open == 0


def test_part_of_a_gpu_is_found_by_its_own_name(install: Any) -> None:
    install(Nvml(prefix="MIG-"))
    assert gpu.read_use().clock_share == 0.5
    install(Nvml(prefix="another "))
    assert gpu.read_use() == gpu.Use()


@pytest.mark.parametrize(
    ("reasons", "texts", "others"),
    [
        (0, (), True),
        (POWER, ("power limit",), False),
        (0x2, ("application clocks",), False),
        (IDLE, ("idle",), False),
        (HOT_BY_SOFTWARE | HOT_BY_HARDWARE | HARDWARE, ("temperature",), False),
        (HARDWARE, ("hardware slowdown",), False),
        (HARDWARE | BRAKE, ("power brake",), False),
        (0x10, ("sync boost",), True),
        (0x100, ("display clocks",), True),
        (0x10 | POWER, ("power limit", "sync boost"), False),
        (0x4000, (), True),
    ],
)
@pytest.mark.parametrize("kind", [Nvml, OldNvml])
def test_a_low_clock_is_laid_to_others_only_where_the_gpu_is_not_its_own_reason(
    install: Any, kind: type[Nvml], reasons: int, texts: tuple[str, ...], others: bool
) -> None:
    install(kind(reasons=reasons))
    use = gpu.read_use()
    assert (use.clock_limited_by, use.shows_others) == (texts, others)
    install(kind(reasons=reasons, clock=1700))
    assert not gpu.read_use().shows_others
    install(kind(reasons=reasons, pids=(1, 2)))
    assert gpu.read_use().shows_others


def test_a_driver_that_knows_the_question_by_its_older_name_alone(install: Any) -> None:
    install(Nvml(reasons=POWER)).refused = {"reasons"}
    assert gpu.read_use().clock_limited_by == ("power limit",)


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ({"clock"}, gpu.Use(1, None, ("power limit",))),
        ({"highest clock"}, gpu.Use(1, None, ("power limit",))),
        ({"reasons", "reasons by their older name"}, gpu.Use(1, 0.5)),
        ({"processes"}, gpu.Use(None, 0.5, ("power limit",))),
        ({"handle"}, gpu.Use()),
        ({"init"}, gpu.Use()),
        ({"shutdown"}, gpu.Use(1, 0.5, ("power limit",))),
    ],
)
def test_what_is_refused_is_unknown_and_all_else_is_known(install: Any, refused: set[str], left: gpu.Use) -> None:
    install(Nvml(pids=(1, 2), reasons=POWER)).refused = refused
    assert gpu.read_use() == left


def test_a_highest_clock_of_nothing_is_unknown(install: Any) -> None:
    install(Nvml()).highest_clock = 0
    assert gpu.read_use().clock_share is None


def test_where_not_even_this_process_is_listed_nobody_knows_of_others(install: Any) -> None:
    install(Nvml(pids=()))
    assert gpu.read_use().processes is None


@pytest.mark.parametrize(("pids", "expected"), [((), None), ((77,), 1000), ((77, 78), None), ((77, 5), 1000)])
def test_process_bytes_of_a_container(
    install: Any, monkeypatch: pytest.MonkeyPatch, pids: tuple[int, ...], expected: int | None
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 5)
    install(Nvml(pids))
    assert gpu.read_process_bytes() == expected


@pytest.mark.parametrize("used", [None, 2**64 - 1])
def test_process_bytes_that_nvml_does_not_know(install: Any, used: int | None) -> None:
    install(Nvml()).used = used
    assert gpu.read_process_bytes() is None


def test_without_nvml_nothing_is_known_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    assert gpu.read_use() == gpu.Use()
    assert gpu.read_process_bytes() is None
    assert gpu.read_driver() is None


def test_the_driver_is_named_and_so_is_the_gpu(install: Any, device: types.SimpleNamespace) -> None:
    install(Nvml())
    assert (gpu.read_driver(), gpu.read_uuid()) == ("570.1", "1234-abcd")
    del device.uuid
    assert (gpu.read_driver(), gpu.read_uuid(), gpu.read_use()) == (None, None, gpu.Use())


def seen(share: float | None, *reasons: str) -> Contention:
    return Contention(0.9, 0.0, 0, 0, share, gpu_clock_limited_by=reasons)


def test_reasons_of_the_card_are_said_once_with_their_phases() -> None:
    found = list(gpu.clock_warnings({
        "forward": seen(0.7, "power limit"), "step": seen(0.6, "power limit", "idle"), "inference": seen(0.9, "power limit"),
        "parametrize": None,
    }))  # fmt: skip
    text = (
        "the GPU's power limit held its clock at 60% of the maximum during forward, step; "
        "the times are valid only for this setting of the GPU"
    )
    assert found == [Caution("low_clock", ("forward", "step"), text)]


def test_heat_is_said_at_any_clock_and_what_is_over_or_of_others_at_none() -> None:
    (found,) = gpu.clock_warnings({"step": seen(0.9, "temperature", "hardware slowdown")})
    assert found.text.startswith("the GPU's temperature held its clock at 90% of the maximum during step; check its cooling")
    assert not list(gpu.clock_warnings({"step": seen(0.3, "idle", "sync boost", "display clocks"), "forward": seen(None)}))


def test_records_from_before_are_read_and_new_ones_come_back() -> None:
    old = {"own_share": 0.9, "foreign_share": 0.0, "involuntary_switches": 3, "gpu_processes": 0, "gpu_clock_share": 0.5}
    assert typed.from_json(Contention, old) == Contention(0.9, 0.0, 3, 0, 0.5)
    new = {**old, "gpu_clock_limited_by": ["idle", "power limit"]}
    assert typed.from_json(Contention, new).gpu_clock_limited_by == ("idle", "power limit")
    described = {"hostname": "h", "system": "s", "cpu": "c", "cores": 1, "memory_bytes": 1, "python": "3", "torch": "2",
                 "packages": {}, "commit": None, "gpu": "a GPU"}  # fmt: skip
    assert typed.from_json(Machine, described).gpu_uuid is None
    assert typed.from_json(Machine, {**described, "gpu_uuid": "1-a"}).gpu_uuid == "1-a"
