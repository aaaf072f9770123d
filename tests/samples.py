"""Records with numbers that are easy to check, for tests that read runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lipbench import cases, records
from lipbench.cases import Case, LayerSpec
from lipbench.quantities import Contention, Machine, Macs, Memory, Peak, Timing
from lipbench.records import Record, Round

MACHINE = Machine(
    "host", "Linux 6", "a processor", 2, 2**33, "3.11.7", "2.13.0", {"torch": "2.13.0"}, None, flags={"threads": "1"}
)


def case(method: str = "standard", channels: int = 4, **conditions: int) -> Case:
    return Case(LayerSpec(method, channels, image_size=8), batch_size=2, **conditions)  # type: ignore[arg-type]


def timing(*samples_s: float, contended: bool = False, host_s: Sequence[float] = ()) -> Timing:
    contention = Contention(0.9, 0.2 if contended else 0.0, 3, contended=contended)
    return Timing(tuple(samples_s), tuple(host_s), converged=True, contention=contention)


def ok(phases: dict[str, Timing], *, first: bool = True, warnings: tuple[str, ...] = ()) -> Round:
    """A round that worked; with memory and MACs if it is the first."""
    memory = Memory("cpu allocator events", 640, 0, 640, 640, 2048, 2048, 4000, 1900.0, 200.0, {"step": Peak(9000, 5000)})
    macs = Macs({"forward": 1234, "inference": 1200}, {"aten.convolution": 1234}, per_image=600.0, constant=34.0)
    held, counted = (memory, macs) if first else (None, None)
    return Round("ok", "", warnings, "2026-01-02T03:04:05+00:00", 1.5, MACHINE, phases, held, counted)


def save_run(directory: Path, found: Sequence[Record], planned: Sequence[Case] = ()) -> Path:
    """A run directory with these records."""
    planned = planned or [record.case for record in found]
    limits = {"phase_seconds": 0.5, "timeout_s": 300.0, "memory_bytes": None}
    meta = {"command": "lipbench profile", "preset": "quick", "rounds": 2, "limits": limits}
    records.save_meta(directory, {**meta, "cases": [cases.to_dict(one) for one in planned]})
    for record in found:
        records.save(directory, record)
    return directory
