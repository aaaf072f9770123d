"""Measures one case in this process: builds it, then measures time, memory, MACs and certificate as separate parts."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from lipbench import certify, errors, registry
from lipbench.cases import Case, ExternalNetworkSpec, Limits
from lipbench.compiled import CompiledWorkload
from lipbench.layers.base import WithKernel
from lipbench.meters import gpu, machine, macs, memory
from lipbench.meters import time as time_meter
from lipbench.quantities import EXAMINED, GROUPS, PARTS, Caution, Certificate, Machine, Timing
from lipbench.run import failures
from lipbench.store.rounds import Part, Round, not_ok, summed_up
from lipbench.workload import Group, Workload

Tell = Callable[[Round, str | None, tuple[str, ...]], object]
"""(the results so far, the part that starts or None, the remaining parts)"""
COMPILED_ACCURACY = {"float32": 1e-3, "float64": 1e-6}
"""largest relative difference, in norm, between compiled and uncompiled output without a warning"""


def measure(
    case: Case,
    limits: Limits,
    parts: Sequence[str] = PARTS,
    tell: Tell = lambda *_: None,
    failed: Collection[str] = (),
) -> Round:
    """Measure the given `parts` of `quantities.PARTS` of a case in this process; each part succeeds or fails independently.

    `tell` is called before each part and after the last with the results so far, the part that starts, and the remaining
    parts, so that results survive if the process dies. A part that leaves the device unusable ends the round early.
    Memory is measured without groups that `failed` before, and the certificate without training if that failed.

    Call this in a fresh process, with the thread counts set before torch was imported. Raises `LipbenchError` where the case
    cannot be built here. Any other exception while building is passed on to the caller, which records it.
    """
    begin, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    if case.device == "cuda" and not torch.cuda.is_available():
        raise errors.no_cuda()
    machine.set_precision(case.precision)
    torch.manual_seed(case.seed)
    workload = Workload.build(case, registry.build(case.spec))
    found = Round("ok", started=started, machine=_described(case))
    with _compiled(workload, parts) as compiled:
        sitting = _Sitting(workload, compiled, limits, frozenset(failed))
        left = tuple(name for name in PARTS if name in parts and (name in sitting.groups or name not in GROUPS))
        while left:
            doing, *rest = left
            tell(found, doing, tuple(rest))
            found = sitting.further(found, doing, with_step="step" in rest and case.device == "cpu")
            left = tuple(name for name in rest if name not in found.parts)
            if not _is_usable(case.device):
                break
        compiler_doubts = _compiler_doubts(workload, compiled) if compiled and found.phases else ()
    warnings = (*found.warnings, *_warnings(case, found), *compiler_doubts, *_fallbacks(workload))
    found = replace(found, warnings=tuple(dict.fromkeys(warnings)), duration_s=time.perf_counter() - begin, tuned=_tuned(case))
    tell(found, None, left)
    return found


@dataclass(frozen=True)
class _Sitting:
    """The state of a measurement in this process."""

    workload: Workload
    compiled: CompiledWorkload | None
    limits: Limits
    failed: frozenset[str]
    """groups that failed in other processes"""

    @property
    def running(self) -> Workload:
        """The workload that is timed: compiled where the case says so."""
        return self.compiled or self.workload

    @property
    def groups(self) -> dict[str, Group]:
        return {group.name: group for group in self.running.groups()}

    def further(self, found: Round, part: str, with_step: bool) -> Round:
        """The round with one more part: its results, or the reason for its failure.

        Training `with_step` also times the training step, in the same iterations; if that fails, training is timed alone.
        """
        if part == "training" and with_step:
            both = self._tried(found, ("training", "step"))
            if both.parts["step"].status == "ok":
                return both
        return self._tried(found, (part,))

    def _tried(self, found: Round, parts: tuple[str, ...]) -> Round:
        try:
            self.workload.restore()
            gained, ending = self._measured(found, parts), Part()
        except _NotFiniteError as error:
            gained, ending = found, Part("nan", str(error))
        except BaseException as error:  # an external layer may raise anything, SystemExit too
            gained, ending = found, failures.of_exception(error)
        if ending.status != "ok":
            _free_memory(self.workload)
        elif "certificate" in parts and gained.certificate and _claims(self.workload.case):
            violation = certify.violation(gained.certificate)
            ending = Part("not_lipschitz", violation) if violation else ending
        return summed_up(replace(gained, parts={**gained.parts, **dict.fromkeys(parts, ending)}))

    def _measured(self, found: Round, parts: tuple[str, ...]) -> Round:
        part = parts[0]
        bad = {*self.failed, *not_ok(found.parts)}
        if part == "memory":
            fitting = [phase for name, phases in GROUPS.items() if name not in bad for phase in phases]
            return replace(found, memory=memory.measure(self.workload, self.compiled, fitting))
        if part == "macs":
            return replace(found, macs=macs.measure(self.workload))
        if part == "certificate":
            certificate, doubts = _certify(self.workload, "training" not in bad)
            return replace(found, certificate=certificate, warnings=(*found.warnings, *doubts))
        timings = time_group(self.running, self.groups[part], self.limits, with_step="step" in parts[1:])
        return replace(found, phases={**(found.phases or {}), **timings})


def time_group(workload: Workload, group: Group, limits: Limits, with_step: bool = False) -> dict[str, Timing]:
    """Time the phases of a group; `with_step`, for training on a CPU, also the whole training step.

    Raises an error if the first calls computed a value that is not finite.
    """
    case = workload.case

    def check() -> None:
        broken = [name for name, tensor in workload.results().items() if not torch.isfinite(tensor).all()]
        if broken:
            raise _NotFiniteError(f"not finite: {', '.join(broken)}")

    return time_meter.measure(
        group.stages,
        group.prepare,
        check,
        device=case.device,
        limit_s=limits.phase_seconds,
        threads=case.threads,
        loop=group.loop,
        whole=("step", workload.optimizer.step) if with_step else None,
    )


class _NotFiniteError(ArithmeticError):
    """A result is infinite or not a number."""


def _tuned(case: Case) -> dict[str, str]:
    """The configurations of Triton kernels that tuning chose in this process."""
    if not registry.needs_triton(case.spec):
        return {}
    from lipbench_kernels import launching

    return launching.chosen()


def _free_memory(workload: Workload) -> None:
    """Free what a failed part left in memory, so that the next part has all of it."""
    with contextlib.suppress(Exception):  # this calls an external layer
        workload.prepare_first_inference()
    gc.collect()
    if workload.case.device == "cuda":
        with contextlib.suppress(RuntimeError):  # raised by a device that is unusable after a fault
            torch.cuda.empty_cache()


def _is_usable(device: str) -> bool:
    """Whether the device still works in this process: after a fault in a kernel, a GPU does not."""
    if device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _described(case: Case) -> Machine:
    found = machine.describe(case.device, case.threads)
    return replace(found, flags={**found.flags, "compile": "inductor, its cache empty at the start"}) if case.compile else found


@contextmanager
def _compiled(workload: Workload, parts: Sequence[str]) -> Iterator[CompiledWorkload | None]:
    """The workload compiled by `torch.compile`, where its case says so and a part uses it; None elsewhere.

    The compiler's cache starts empty, so that compile times are those of a first compilation. MACs and certificate use the
    uncompiled workload: it computes the same function, and a compiled graph hides operations from counters.
    """
    if not workload.case.compile or {*parts} <= {*EXAMINED}:
        yield None
        return
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield CompiledWorkload(workload)


def _certify(workload: Workload, with_training: bool) -> tuple[Certificate | None, tuple[Caution, ...]]:
    """The certificate, for evaluation mode only where training mode fails, and a warning if a mode has none.

    A layer may work in the measured dtype and batch size, but not in float64 on one image.
    """
    doubts: list[Caution] = []
    each_layer = not isinstance(workload.case.spec, ExternalNetworkSpec)
    for training, what in ((True, "in training mode"), (False, ""))[not with_training :]:
        try:
            certificate = certify.certify(workload.module, workload.x, training, each_layer)
            if certificate.unknown:
                text = f"whether the layer is {certificate.claimed:g}-Lipschitz cannot be told: {certificate.unknown}"
                doubts.append(Caution("cannot_tell", (), text))
            return certificate, tuple(doubts)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            found = " ".join(("no certificate could be found", what)).strip()
            text = f"{found} ({reason}); let the layer run in float64 on a single image"
            doubts.append(Caution("no_certificate", (), text))
    return None, tuple(doubts[-1:])


def _claims(case: Case) -> bool:
    """Whether a case must be 1-Lipschitz: methods that claim it, and all external layers and networks."""
    method = registry.methods().get(case.spec.method)
    return method is None or method.lipschitz


def _fallbacks(workload: Workload) -> Iterator[Caution]:
    """A warning for each reason why layers did not use their kernel."""
    reasons = Counter(half.fallback for half in workload.halves if isinstance(half, WithKernel) and half.fallback)
    for reason, layers in reasons.items():
        text = f"fallback to paper in {layers} {'layer' if layers == 1 else 'layers'}: {reason}"
        yield Caution("fallback", (), text)


def _compiler_doubts(workload: Workload, compiled: CompiledWorkload) -> tuple[Caution, ...]:
    try:
        return tuple(_compiler_warnings(workload, compiled))
    except Exception as error:  # such as a lack of memory for the comparison: the results stay
        reason = " ".join(f"{type(error).__name__}: {error}".split())
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
        one.prepare_training()
        outputs.append(one.forward().detach().double())
        one.prepare_training()
    workload.restore()
    difference = float(torch.linalg.vector_norm(outputs[1] - outputs[0]) / torch.linalg.vector_norm(outputs[0]))
    if not difference <= COMPILED_ACCURACY[workload.case.dtype]:
        text = f"the compiled output differs from the uncompiled one by {difference:.1e} of its norm; do not use it"
        yield Caution("inexact", (), text)


def _warnings(case: Case, found: Round) -> Iterator[Caution]:
    """Warnings that make these timings doubtful, each with what to do."""
    if not found.phases:
        return
    phases, flags = found.phases, found.machine.flags if found.machine else {}
    if registry.needs_triton(case.spec) and flags.get("triton") == "interpreter":
        text = "interpreted, not a timing: Triton kernels ran in their interpreter; measure on a GPU, without TRITON_INTERPRET"
        yield Caution("interpreted", (), text)
    elif case.device == "cpu" and case.precision != "ieee":
        yield Caution("precision", (), f"precision {case.precision} has no effect on a CPU; compare with ieee")
    if (threads := torch.get_num_threads()) != case.threads:
        text = f"torch runs {threads} threads instead of {case.threads}; set OMP_NUM_THREADS before torch is imported"
        yield Caution("threads", (), text)
    if contended := tuple(name for name, timing in phases.items() if timing.contention and timing.contention.contended):
        text = f"other processes used the machine during {', '.join(contended)}; measure again when it is idle"
        yield Caution("contended", contended, text)
    yield from gpu.clock_warnings({phase: timing.contention for phase, timing in phases.items()})
    if unsettled := tuple(phase for phase, timing in phases.items() if not timing.converged):
        text = f"the median of {', '.join(unsettled)} had not converged at the time limit; raise --phase-seconds"
        yield Caution("unsettled", unsettled, text)
