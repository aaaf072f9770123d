"""One case in this process: build it, see that it works, time it, and, once, take its memory, MACs and certificate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import torch
from torch import Tensor

from lipbench import certify, errors, registry
from lipbench.cases import Case, Limits
from lipbench.meters import machine, macs, memory
from lipbench.meters import time as time_meter
from lipbench.quantities import PHASES, Certificate, Timing
from lipbench.records import Round
from lipbench.workload import Workload


def measure(case: Case, limits: Limits, first: bool) -> Round:
    """Everything about one case that one process can tell; memory, MACs and certificate, which do not vary, only if `first`.

    To be called in a fresh process, with the thread counts set before torch was imported. Raises `LipbenchError` where the
    case cannot be built here, and lets any other exception through: the caller makes a record of it.
    """
    begin, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    if case.device == "cuda" and not torch.cuda.is_available():
        raise errors.no_cuda()
    machine.set_precision(case.precision)
    torch.manual_seed(case.seed)
    workload = Workload.build(case, registry.build(case.spec))
    found = machine.describe(case.device, case.threads)
    broken = _not_finite(workload)
    if broken:
        reason = f"not finite: {', '.join(broken)}"
        return Round("nan", reason, started=started, duration_s=time.perf_counter() - begin, machine=found)
    phases = time_phases(workload, limits)
    workload.restore()
    bytes_held = memory.measure(workload) if first else None
    workload.restore()
    multiplications = macs.measure(workload) if first else None
    workload.restore()
    certificate, doubts = _certify(workload) if first else (None, ())
    broken_promise = certify.violation(certificate) if certificate and _claims(case) else ""
    return Round(
        "not_lipschitz" if broken_promise else "ok",
        broken_promise,
        warnings=(*_warnings(case, phases), *doubts),
        started=started,
        duration_s=time.perf_counter() - begin,
        machine=found,
        phases=phases,
        memory=bytes_held,
        macs=multiplications,
        certificate=certificate,
    )


def time_phases(workload: Workload, limits: Limits) -> dict[str, Timing]:
    """Time every phase of a workload, each from the same weights."""
    case = workload.case
    timings: dict[str, Timing] = {}
    for group in workload.groups():
        workload.restore()
        timings |= time_meter.measure(
            group.stages,
            group.prepare,
            device=case.device,
            limit_s=limits.phase_seconds,
            threads=case.threads,
            loop=group.loop,
        )
    return {phase: timings[phase] for phase in PHASES if phase in timings}


def _certify(workload: Workload) -> tuple[Certificate | None, tuple[str, ...]]:
    """The certificate, and a warning where there is none: a layer may work as measured and not in float64 on one image."""
    try:
        return certify.certify(workload.module, workload.x), ()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return None, (f"no certificate could be found ({reason}); let the layer run in float64 on a single image",)


def _claims(case: Case) -> bool:
    """Whether a case is held to be 1-Lipschitz. Layers of somebody else's are: that is what they are measured for here."""
    method = registry.methods().get(case.spec.method)
    return method is None or method.lipschitz


def _not_finite(workload: Workload) -> list[str]:
    """Names of what is infinite or not a number after a training pass and an evaluation."""
    workload.prepare_training()
    results: dict[str, Tensor | None] = {"output in training": workload.forward()}
    workload.backward()
    results["gradient of the input"] = workload.x.grad
    for name, parameter in workload.module.named_parameters():
        results[f"gradient of {name}"] = parameter.grad
    broken = [name for name, tensor in results.items() if tensor is not None and not torch.isfinite(tensor).all()]
    workload.prepare_inference()
    if not torch.isfinite(workload.inference()).all():
        broken.append("output in evaluation")
    return broken


def _warnings(case: Case, phases: dict[str, Timing]) -> Iterator[str]:
    """What makes these figures doubtful, and the cure, one line each."""
    if case.device == "cpu" and case.precision != "ieee":
        yield f"precision {case.precision} has no effect on a CPU; compare with ieee"
    if torch.get_num_threads() != case.threads:
        yield (
            f"torch runs {torch.get_num_threads()} threads instead of {case.threads}; "
            "set OMP_NUM_THREADS before torch is imported"
        )
    contended = [phase for phase, timing in phases.items() if timing.contention and timing.contention.contended]
    if contended:
        yield f"others used the machine during {', '.join(contended)}; measure again when it is idle"
    unsettled = [phase for phase, timing in phases.items() if not timing.converged]
    if unsettled:
        yield f"the median of {', '.join(unsettled)} was not settled at the time limit; allow more seconds a phase"
