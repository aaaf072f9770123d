"""One case in this process: build it, see that it works, time it, and, once, take its memory, MACs and certificate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import torch
from torch import Tensor

from lipbench import certify, errors, registry
from lipbench.cases import TRITON, Case, Limits
from lipbench.compiled import CompiledWorkload
from lipbench.layers.base import WithKernel
from lipbench.meters import machine, macs, memory
from lipbench.meters import time as time_meter
from lipbench.quantities import PHASES, Certificate, Machine, Timing
from lipbench.records import Round
from lipbench.workload import Workload

COMPILED_ACCURACY = {"float32": 1e-3, "float64": 1e-6}
"""largest difference of a compiled output from the uncompiled one, relative in norm, that passes without a warning"""


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
    found = _described(case)
    broken = _not_finite(workload)
    if broken:
        reason = f"not finite: {', '.join(broken)}"
        return Round("nan", reason, started=started, duration_s=time.perf_counter() - begin, machine=found)
    with _compiled(workload) as compiled:
        phases = time_phases(compiled or workload, limits)
        workload.restore()
        bytes_held = memory.measure(workload, compiled) if first else None
        compiler_doubts = tuple(_compiler_warnings(workload, compiled)) if compiled else ()
    workload.restore()
    multiplications = macs.measure(workload) if first else None
    workload.restore()
    certificate, doubts = _certify(workload) if first else (None, ())
    broken_promise = certify.violation(certificate) if certificate and _claims(case) else ""
    return Round(
        "not_lipschitz" if broken_promise else "ok",
        broken_promise,
        warnings=(*_warnings(case, found, phases), *compiler_doubts, *_fallbacks(workload), *doubts),
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


def _described(case: Case) -> Machine:
    found = machine.describe(case.device, case.threads)
    return replace(found, flags={**found.flags, "compile": "inductor, its cache empty at the start"}) if case.compile else found


@contextmanager
def _compiled(workload: Workload) -> Iterator[CompiledWorkload | None]:
    """The workload as `torch.compile` makes it, where its case says so.

    With a cache of its own, so that compiling takes what it takes the first time. MACs and certificate are taken on what is not
    compiled: it is the same function, and a graph hides operations from counters.
    """
    if not workload.case.compile:
        yield None
        return
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield CompiledWorkload(workload)


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


def _fallbacks(workload: Workload) -> Iterator[str]:
    """Why layers computed without their kernel, each reason once."""
    reasons = Counter(half.fallback for half in workload.halves if isinstance(half, WithKernel) and half.fallback)
    for reason, layers in reasons.items():
        yield f"fallback to paper in {layers} {'layer' if layers == 1 else 'layers'}: {reason}"


def _compiler_warnings(workload: Workload, compiled: CompiledWorkload) -> Iterator[str]:
    """What makes it doubtful that compiled code, and nothing else, was timed, and that it computes the same."""
    for reason in compiled.graph_breaks():
        yield f"torch.compile left the graph: {reason}"
    if compiled.recompiled:
        yield f"torch.compile compiled {', '.join(compiled.recompiled)} again after the first call; see TORCH_LOGS=recompiles"
    outputs = []
    for one in (workload, compiled):
        workload.restore()
        one.prepare_training()
        outputs.append(one.forward().detach().double())
        one.prepare_training()
    workload.restore()
    difference = float(torch.linalg.vector_norm(outputs[1] - outputs[0]) / torch.linalg.vector_norm(outputs[0]))
    if not difference <= COMPILED_ACCURACY[workload.case.dtype]:
        yield f"the compiled output differs from the uncompiled one by {difference:.1e} of its norm; do not use it"


def _warnings(case: Case, found: Machine, phases: dict[str, Timing]) -> Iterator[str]:
    """What makes these figures doubtful, and the cure, one line each."""
    if case.spec.implementation == TRITON and found.flags.get("triton") == "interpreter":
        yield "interpreted, not a timing: Triton kernels ran in their interpreter; measure on a GPU, without TRITON_INTERPRET"
    elif case.device == "cpu" and case.precision != "ieee":
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
