"""Warnings of a round: what makes its numbers doubtful, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from lipbench import registry, traces
from lipbench.cases import AUTOCAST, Case
from lipbench.compiled import CompiledWorkload
from lipbench.exported import ExportedWorkload
from lipbench.layers.base import WithKernel
from lipbench.meters import gpu
from lipbench.quantities import Caution
from lipbench.store.rounds import Round
from lipbench.workload import Workload

COMPILED_ACCURACY = {"float32": 1e-3, "float64": 1e-6, "bf16": 3e-2, "fp16": 4e-3}
"""by autocast's precision, or else by dtype: the largest relative difference, in norm, between compiled and uncompiled output
without a warning. For half precision it is eight units in the last place: the compiler leaves out some roundings."""


def fallbacks(workload: Workload) -> Iterator[Caution]:
    """A warning for each reason why layers did not use their kernel."""
    with workload.autocast:
        reasons = Counter(half.fallback for half in workload.halves if isinstance(half, WithKernel) and half.fallback)
    for reason, layers in reasons.items():
        text = f"fallback to paper in {layers} {'layer' if layers == 1 else 'layers'}: {reason}"
        yield Caution("fallback", (), text)


def compiler_doubts(workload: Workload, compiled: CompiledWorkload) -> tuple[Caution, ...]:
    try:
        return tuple(_compiler_warnings(workload, compiled))
    except Exception as error:  # such as a lack of memory for the comparison: the results stay
        reason = traces.line(error)
        text = f"the compiled output could not be compared with the uncompiled one ({reason}); use a smaller batch"
        return (Caution("uncompared", (), text),)


def _compiler_warnings(workload: Workload, compiled: CompiledWorkload) -> Iterator[Caution]:
    """Warnings where uncompiled code or compilation may have been timed, or the compiled output differs."""
    for reason in compiled.graph_breaks():
        yield Caution("graph_break", (), f"graph break in torch.compile: {reason}")
    if again := tuple(compiled.recompiled):
        text = f"torch.compile recompiled {', '.join(again)} after the first call; set TORCH_LOGS=recompiles to see why"
        yield Caution("recompiled", again, text)
    outputs = []
    for one in (workload, compiled):
        workload.restore()
        prepare, run = (one.prepare_inference, one.inference) if one.inference_only else (one.prepare_training, one.forward)
        prepare()
        outputs.append(run().detach().double())
        prepare()
    workload.restore()
    difference = float(torch.linalg.vector_norm(outputs[1] - outputs[0]) / torch.linalg.vector_norm(outputs[0]))
    if not difference <= _accuracy(workload.case):
        text = f"the compiled output differs from the uncompiled one by {difference:.1e} of its norm; do not use it"
        yield Caution("inexact", (), text)


def _accuracy(case: Case) -> float:
    """The largest relative difference between two ways to compute one output that rounding explains."""
    return COMPILED_ACCURACY[case.precision if case.is_half else case.dtype]


def _without_effect(case: Case) -> str:
    """Where a case's precision has no effect, as in "on a CPU"; "" where it has one, or where only the layer decides that."""
    if case.precision == "ieee":
        return ""
    if case.dtype == "float64":
        return "on float64"
    if case.precision in AUTOCAST:
        return ""
    if case.device == "cpu":
        return "on a CPU"
    return "without Triton kernels" if case.precision == "tf32x3" and not registry.needs_triton(case.spec) else ""


def precision_doubts(workload: Workload) -> Iterator[Caution]:
    """A warning where autocast changed nothing, because no operation of the forward pass computed in half precision."""
    case = workload.case
    if case.is_half and not workload.computes_in_half():
        text = f"precision {case.precision} has no effect on this module: autocast converts none of its operations; "
        yield Caution("precision", (), f"{text}compare with ieee")


def export_doubts(workload: Workload) -> Iterator[Caution]:
    """A warning where the exported form of a module does not compute the function of the trained one in evaluation mode."""
    if not isinstance(workload, ExportedWorkload):
        return
    try:
        difference = workload.difference()
    except Exception as error:  # an external module may raise anything
        reason = traces.line(error)
        text = f"the exported output could not be compared with that of the trained module ({reason}); use a smaller batch"
        yield Caution("uncompared", ("inference",), text)
        return
    if not difference <= _accuracy(workload.case):
        text = f"the exported output differs from that of the trained module in evaluation mode by {difference:.1e} of its norm"
        yield Caution("inexact", ("inference",), f"{text}; do not use it")


def warnings(case: Case, found: Round) -> Iterator[Caution]:
    """Warnings that make these timings doubtful, each with what to do."""
    if not found.phases:
        return
    phases, flags = found.phases, found.machine.flags if found.machine else {}
    if registry.needs_triton(case.spec) and flags.get("triton") == "interpreter":
        text = "interpreted, not a timing: Triton kernels ran in their interpreter; measure on a GPU, without TRITON_INTERPRET"
        yield Caution("interpreted", (), text)
    elif where := _without_effect(case):
        yield Caution("precision", (), f"precision {case.precision} has no effect {where}; compare with ieee")
    if (threads := torch.get_num_threads()) != case.threads:
        text = f"torch runs {threads} threads instead of {case.threads}; set OMP_NUM_THREADS before torch is imported"
        yield Caution("threads", (), text)
    if contended := tuple(name for name, timing in phases.items() if timing.contended):
        text = f"other processes used the machine during {', '.join(contended)}; measure again when it is idle"
        yield Caution("contended", contended, text)
    yield from gpu.clock_warnings({phase: timing.contention for phase, timing in phases.items()})
    if unsettled := tuple(phase for phase, timing in phases.items() if not timing.converged):
        text = f"the median of {', '.join(unsettled)} had not converged at the time limit; raise --phase-seconds"
        yield Caution("unsettled", unsettled, text)
