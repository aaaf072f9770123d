"""One case in this process: build it, time it, take its memory, count its MACs and certify it, each part for itself."""

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
"""(what was found so far, the part that begins or None, the parts that wait)"""
COMPILED_ACCURACY = {"float32": 1e-3, "float64": 1e-6}
"""largest difference of a compiled output from the uncompiled one, relative in norm, that passes without a warning"""


def measure(
    case: Case,
    limits: Limits,
    parts: Sequence[str] = PARTS,
    tell: Tell = lambda *_: None,
    failed: Collection[str] = (),
) -> Round:
    """Everything that one process can tell about a case, of the `parts` of `quantities.PARTS`; each ends for itself.

    `tell` hears, before each part and at the end, what was found so far, the part that begins, and those that wait: so what is
    known stays known if the process dies. A part that leaves the device unusable ends the round early, with the others left.
    Groups that `failed` before are no part of the memory, and training that failed is no part of the certificate.

    To be called in a fresh process, with the thread counts set before torch was imported. Raises `LipbenchError` where the
    case cannot be built here, and lets any other exception of building through: the caller makes a record of it.
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
    """What is measured in this process, and what is known of it before."""

    workload: Workload
    compiled: CompiledWorkload | None
    limits: Limits
    failed: frozenset[str]
    """groups that failed in other processes"""

    @property
    def running(self) -> Workload:
        """What is timed."""
        return self.compiled or self.workload

    @property
    def groups(self) -> dict[str, Group]:
        return {group.name: group for group in self.running.groups()}

    def further(self, found: Round, part: str, with_step: bool) -> Round:
        """A round with one part more: what it found, or why it did not.

        Training `with_step` gives the training step too, from the same iterations; where that fails, it is tried without.
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
            _let_go(self.workload)
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
    """Time the phases of a group; of training on a CPU, `with_step`, the whole training step too.

    Raises an error if something that the first calls computed is not finite.
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
    """The configurations that the tuning of Triton kernels chose in this process."""
    if not registry.needs_triton(case.spec):
        return {}
    from lipbench_kernels import launching

    return launching.chosen()


def _let_go(workload: Workload) -> None:
    """Free what a failed part has left behind, so that the next one has all of the memory."""
    with contextlib.suppress(Exception):  # it calls an external layer
        workload.prepare_first_inference()
    gc.collect()
    if workload.case.device == "cuda":
        with contextlib.suppress(RuntimeError):  # of a device that is of no use any more
            torch.cuda.empty_cache()


def _is_usable(device: str) -> bool:
    """Whether the device still works in this process: after a fault in a kernel, nothing on a GPU does."""
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
    """The workload as `torch.compile` makes it, where its case says so and a part looks at it.

    With a cache of its own, so that compiling takes what it takes the first time. MACs and certificate are taken on what is not
    compiled: it is the same function, and a graph hides operations from counters.
    """
    if not workload.case.compile or {*parts} <= {*EXAMINED}:
        yield None
        return
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield CompiledWorkload(workload)


def _certify(workload: Workload, with_training: bool) -> tuple[Certificate | None, tuple[Caution, ...]]:
    """The certificate, of evaluation alone where training mode allows none, and a warning for each mode that has none.

    A layer may work as measured and not in float64 on one image.
    """
    doubts: list[Caution] = []
    each_layer = not isinstance(workload.case.spec, ExternalNetworkSpec)
    for training, what in ((True, "in training mode"), (False, ""))[not with_training :]:
        try:
            return certify.certify(workload.module, workload.x, training, each_layer), tuple(doubts)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            found = " ".join(("no certificate could be found", what)).strip()
            text = f"{found} ({reason}); let the layer run in float64 on a single image"
            doubts.append(Caution("no_certificate", (), text))
    return None, tuple(doubts[-1:])


def _claims(case: Case) -> bool:
    """Whether a case is held to be 1-Lipschitz. External layers are: that is what they are measured for here."""
    method = registry.methods().get(case.spec.method)
    return method is None or method.lipschitz


def _fallbacks(workload: Workload) -> Iterator[Caution]:
    """Why layers computed without their kernel, each reason once."""
    reasons = Counter(half.fallback for half in workload.halves if isinstance(half, WithKernel) and half.fallback)
    for reason, layers in reasons.items():
        text = f"fallback to paper in {layers} {'layer' if layers == 1 else 'layers'}: {reason}"
        yield Caution("fallback", (), text)


def _compiler_doubts(workload: Workload, compiled: CompiledWorkload) -> tuple[Caution, ...]:
    try:
        return tuple(_compiler_warnings(workload, compiled))
    except Exception as error:  # what was measured stays, though no memory is left to compare it with
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        text = f"the compiled output could not be compared with the uncompiled one ({reason}); use a smaller batch"
        return (Caution("uncompared", (), text),)


def _compiler_warnings(workload: Workload, compiled: CompiledWorkload) -> Iterator[Caution]:
    """What makes it doubtful that compiled code, and nothing else, was timed, and that it computes the same."""
    for reason in compiled.graph_breaks():
        yield Caution("graph_break", (), f"torch.compile left the graph: {reason}")
    if again := tuple(compiled.recompiled):
        text = f"torch.compile compiled {', '.join(again)} again after the first call; see TORCH_LOGS=recompiles"
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
    """What makes these figures doubtful, and the cure."""
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
        text = f"others used the machine during {', '.join(contended)}; measure again when it is idle"
        yield Caution("contended", contended, text)
    yield from gpu.clock_warnings({phase: timing.contention for phase, timing in phases.items()})
    if unsettled := tuple(phase for phase, timing in phases.items() if not timing.converged):
        text = f"the median of {', '.join(unsettled)} was not settled at the time limit; allow more seconds a phase"
        yield Caution("unsettled", unsettled, text)
