"""Measures one case in this process: builds it, then measures time, memory, MACs and certificate as separate parts."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from lipbench import certify, errors, external, registry, traces
from lipbench.cases import Case, Limits, NetworkSpec
from lipbench.compiled import CompiledWorkload
from lipbench.exported import ExportedWorkload
from lipbench.layers.base import WithKernel
from lipbench.meters import attempts, machine, macs, memory
from lipbench.meters import time as time_meter
from lipbench.quantities import ESTIMATED, EXAMINED, GROUPS, PARTS, Caution, Certificate, Estimate, Machine, Timing
from lipbench.run import cautions, certifying, doubts, estimates, failures
from lipbench.store.rounds import Part, Round, not_ok, summed_up
from lipbench.workload import Group, Workload, usual_weights

Tell = Callable[[Round, str | None, tuple[str, ...]], object]
"""(the results so far, the part that starts or None, the remaining parts)"""


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
    found = Round("ok", started=started, machine=_described(case))
    workload = _built(case, found, parts, tell, failed)
    with _compiled(workload, parts) as compiled:
        sitting = _Sitting(workload, compiled, limits, frozenset(failed))
        left = tuple(name for name in (*PARTS, *ESTIMATED) if name in parts and (name in sitting.groups or name not in GROUPS))
        while left:
            doing, *rest = left
            tell(found, doing, tuple(rest))
            found = sitting.further(found, doing, with_step="step" in rest and case.device == "cpu")
            left = tuple(name for name in rest if name not in found.parts)
            if not _is_usable(case.device):
                break
        compiler_doubts = doubts.compiler_doubts(workload, compiled) if compiled and found.phases else ()
    own_doubts = (*doubts.precision_doubts(workload), *doubts.export_doubts(workload)) if found.phases else ()
    called = (*cautions.unused_sizes(case.spec), *cautions.copied_input(workload), *cautions.remarks(workload))
    seen = (*doubts.warnings(case, found), *compiler_doubts, *own_doubts, *doubts.fallbacks(workload), *called)
    warnings = (*found.warnings, *seen)
    found = replace(found, warnings=tuple(dict.fromkeys(warnings)), duration_s=time.perf_counter() - begin, tuned=_tuned(case))
    tell(found, None, left)
    return found


TRAINED_IN = {"training", "step", "macs"}
"""parts that run a training step in every case; where one failed, the weights are the initial ones"""


def _built(case: Case, found: Round, parts: Sequence[str], tell: Tell, failed: Collection[str]) -> Workload:
    """The workload, with the weights that its case is usually measured with.

    If training steps choose them, `tell` reports the first part that trains as begun: should they end the process, that part
    failed, and another process, which knows of it, measures the others with the initial weights.
    """
    chosen = usual_weights(case)
    workload = Workload.build(case, registry.build(case.spec), "initial" if chosen == "trained" else chosen)
    if chosen == "trained" and TRAINED_IN & {*failed}:
        workload.remarks["training failed: the weights are those of the initial map"] = "weights"
    elif chosen == "trained":
        order = [name for name in (*PARTS, *ESTIMATED) if name in parts]
        doing = next((name for name in order if name in TRAINED_IN), order[0])
        tell(found, doing, tuple(name for name in order if name != doing))
        workload.leave_initial()
    return ExportedWorkload(workload, external.load_export(case.spec.method)) if case.exported else workload


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
            run = self.groups if self.workload.inference_only else GROUPS
            fitting = [phase for name in run if name not in bad for phase in GROUPS[name]]
            measured = memory.measure(self.workload, self.compiled, fitting)
            return replace(found, memory=measured, warnings=(*found.warnings, *memory.warnings(measured)))
        if part == "macs":
            meter = macs.measure_inference if self.workload.inference_only else macs.measure
            counted = meter(self.workload)
            return replace(found, macs=counted, warnings=(*found.warnings, *attempts.warnings("MACs", counted.failures)))
        if part in ESTIMATED:
            return replace(found, estimate=estimates.counted(self.workload.case, part, found.estimate or Estimate()))
        if part == "certificate":
            certificate, missing = _certify(self.workload, "training" not in bad and not self.workload.inference_only)
            return replace(found, certificate=certificate, warnings=(*found.warnings, *missing))
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
    missing: list[Caution] = []
    each_layer = isinstance(workload.case.spec, NetworkSpec)
    for training, what in ((True, "in training mode"), (False, ""))[not with_training :]:
        try:
            remake = None if workload.inference_only else certifying.remaker(workload)
            claimed = workload.case.spec.claim
            found = certifying.certified(workload.module, workload.x, training, each_layer, remake, claimed)
            if found.unknown:
                text = f"whether the layer is {claimed:g}-Lipschitz cannot be told: {found.unknown}"
                missing.append(Caution("cannot_tell", (), text))
            return replace(found, remarks=(*found.remarks, *_computed_in(workload))), tuple(missing)
        except Exception as error:
            lost = " ".join(("no certificate could be found", what)).strip()
            text = f"{lost} ({traces.line(error)}); let the layer run in float64 on a single image"
            missing.append(Caution("no_certificate", (), text))
    return None, tuple(missing[-1:])


def _computed_in(workload: Workload) -> Iterator[str]:
    """A remark where a certificate was computed in another precision than the times: its parameters are the same."""
    if workload.case.is_half:
        uses_kernel = any(isinstance(half, WithKernel) and not half.fallback for half in workload.halves)
        dtype = "float32" if uses_kernel else "float64"
        yield f"certified in {dtype}; measured in {workload.case.precision}, whose rounding is not part of it"


def _claims(case: Case) -> bool:
    """Whether a case must be 1-Lipschitz: methods that claim it, and all external layers and networks."""
    method = registry.methods().get(case.spec.method)
    return method is None or method.lipschitz
