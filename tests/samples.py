"""Records with numbers that are easy to check, for tests that read runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lipbench.cases import Case, LayerSpec, Limits
from lipbench.quantities import Bound, Caution, Certificate, Contention, Machine, Macs, Memory, Peak, Timing
from lipbench.store import records
from lipbench.store.rounds import Record, Round, with_parts
from lipbench.store.run_plan import RunPlan, save_plan

MACHINE = Machine(
    "host", "Linux 6", "a processor", 2, 2**33, "3.11.7", "2.13.0", {"torch": "2.13.0"}, None, flags={"threads": "1"}
)


def case(method: str = "standard", channels: int = 4, **conditions: int) -> Case:
    return Case(LayerSpec(method, channels, image_size=8), batch_size=2, **conditions)  # type: ignore[arg-type]


def timing(*samples_s: float, contended: bool = False, host_s: Sequence[float] = ()) -> Timing:
    contention = Contention(0.9, 0.2 if contended else 0.0, 3, contended=contended)
    return Timing(tuple(samples_s), tuple(host_s), converged=True, contention=contention)


def cautions(*texts: str) -> tuple[Caution, ...]:
    return tuple(Caution("other", (), text) for text in texts)


def ok(phases: dict[str, Timing], *, first: bool = True, warnings: Sequence[str] = ()) -> Round:
    """A round that worked; with memory and MACs if it is the first. Each text is a warning of kind "other"."""
    memory = Memory("cpu allocator events", 640, 0, 640, 640, 2048, 2048, 4000, 1900.0, 200.0, {"step": Peak(9000, 5000)})
    macs = Macs(
        {"forward": 1234, "inference": 1200}, {"aten.convolution": 1234}, per_image=600.0, constant=34.0,
        published_phases={"forward": 400, "inference": 390}, fvcore_forward=1233, fvcore_unsupported=("aten::a", "aten::b"),
    )  # fmt: skip
    held, counted, certified = (memory, macs, EXACT) if first else (None, None, None)
    one = Round("ok", "", cautions(*warnings), "2026-01-02T03:04:05+00:00", 1.5, MACHINE, phases, held, counted, certified)
    return with_parts(one)


EXACT = Certificate(
    (Bound(1.0, 0.99999, "exact", "fourier", 8), Bound(1.0, None, "exact", "lanczos", 8, 3e-9)),
    (Bound(1.002, 0.99, "exact", "fourier", 8),),
)
"""of a layer that keeps its promise, the training pass nearly so"""
VIOLATING = Certificate((Bound(1.02, None, "exact", "lanczos", 8, 2e-8),), (Bound(1.3, None, "exact", "lanczos", 8, 2e-8),))
SAMPLED = Certificate((Bound(0.93, None, "lower bound", "ascent", 8),), (Bound(0.94, None, "lower bound", "ascent", 8),))
NETWORK = Certificate(
    (Bound(1.0004, None, "upper bound", "product", 32), Bound(1.00003, None, "exact", "lanczos", 16, 1e-8)),
    (Bound(1.2, None, "upper bound", "product", 32),),
)
"""of a network whose layers keep their promise each within the tolerance, and their product does not"""
GROWING = Certificate(NETWORK.evaluation, NETWORK.training, ("4.0", "5.2"))


def failed(status: str, reason: str, certificate: Certificate | None = None) -> Round:
    """A round that gave no numbers that may be used; its times, if it took any, are there all the same."""
    phases = {name: timing(1e-9) for name in ("forward", "step", "inference")}
    return with_parts(replace(ok(phases), status=status, reason=reason, certificate=certificate, parts={}))


def save_run(directory: Path, found: Sequence[Record], planned: Sequence[Case] = ()) -> Path:
    """A run directory with these records."""
    planned = planned or [record.case for record in found]
    plan = RunPlan(command="lipbench profile", preset="quick", rounds=2, limits=Limits(0.5, 300.0), cases=tuple(planned))
    save_plan(directory, plan)
    for record in found:
        records.save(directory, record)
    return directory
