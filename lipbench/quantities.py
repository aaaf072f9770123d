"""Results of the meters: plain frozen data, in SI units with the unit in the name. No torch, so that runs are read quickly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

GROUPS = {
    "training": ("forward", "backward"), "step": ("step",), "parametrize": ("parametrize",), "inference": ("inference",),
    "first_inference": ("first_inference",),
}  # fmt: skip
"""Phases that are timed together, by the name of their group. This is the only list of phases; they are in order.

forward: training mode, graph kept · backward · step: forward, backward and SGD update · parametrize: the parameter half alone ·
inference: evaluation mode, cache warm · first_inference: cache cold.
"""
PHASES = tuple(phase for phases in GROUPS.values() for phase in phases)
TRAINING_PHASES = (*GROUPS["training"], *GROUPS["step"])
EXAMINED = ("macs", "certificate")
"""Parts of a measurement without timing: they are the same in every round, and may be found in another process."""
PARTS = (*GROUPS, "memory", *EXAMINED)
"""Parts of the measurement of a case. Each part succeeds or fails on its own."""

ESTIMATED = ("formulas", "prediction")
"""Parts of external layers alone: what a report shows beside a run, counted on fake tensors by the process that measures, so
that a report imports no external module. If one fails, its reason becomes a note of the `Estimate`."""

FREED_MEMORY = "freed_memory"
"""Flag of a `Machine`, on a CPU: 'kept' by the process, or 'returned' to the system; programs before this flag returned it."""

CautionKind = Literal[
    "contended",  # other processes used the machine while the phases were timed
    "unsettled",  # the median of the phases had not converged at the time limit
    "low_clock",  # the GPU itself lowered its clock during the phases
    "interpreted",  # Triton kernels ran in Triton's interpreter
    "one_process",  # only one process ran, so the spread between processes is unknown
    "threads",  # torch used another number of threads than the case has
    "precision",  # the case's precision has no effect on its device
    "no_certificate",  # no certificate was found, in one mode or in both
    "cannot_tell",  # the certificate does not tell whether the claim holds
    "graph_break",  # torch.compile left the graph
    "recompiled",  # torch.compile compiled the phases again after their first call
    "inexact",  # the compiled output differs from the uncompiled one
    "uncompared",  # the compiled output could not be compared with the uncompiled one
    "fallback",  # layers computed without their kernel
    "unused_size",  # the layer does not take a size of the case
    "input_copied",  # the layer changes its input in place, and gets a copy
    "uncounted",  # MACs or memory of a phase, or a check of them, could not be counted or measured
    "unseen_memory",  # tensors outlive the forward pass that autograd was not given to save
    "weights",  # the weights are not those that training steps lead to
    "state",  # the layer's own state could not be reset between phases
    "other",  # a text that a program of schema 1 or 2 wrote and that matches no rule
]  # an older program cannot read a new kind, so a new kind needs a new `store.rounds.SCHEMA`
"""Topic of a warning. Reports select warnings by it, never by the words of the text."""


@dataclass(frozen=True)
class Caution:
    """A warning about measured numbers. The name `Warning` is taken by a class of Python."""

    kind: CautionKind
    phases: tuple[str, ...]
    """phases that the warning is about; empty where it is about the whole case"""
    text: str
    """one line: why the numbers are doubtful, and what to do"""


@dataclass(frozen=True)
class Contention:
    """Use of the machine by this and other processes while a phase was timed."""

    own_share: float
    """own CPU time ÷ (wall time × threads)"""
    foreign_share: float
    """CPU time of other processes ÷ (wall time × cores)"""
    involuntary_switches: int
    gpu_processes: int | None = None
    """number of other processes that compute on the GPU; None where NVML does not report it"""
    gpu_clock_share: float | None = None
    """SM clock ÷ its maximum, right after the phase"""
    contended: bool = False
    """whether a limit of the meter was exceeded in both attempts; a low GPU clock counts, unless the GPU itself caused it"""
    gpu_clock_limited_by: tuple[str, ...] = ()
    """reasons that the GPU reports for a lowered clock: 'power limit', 'temperature', 'idle', 'application clocks' and so on;
    empty where it reports none or the clock is not lowered"""


@dataclass(frozen=True)
class Timing:
    """Raw samples of one phase in one process. Statistics are derived on reading."""

    samples_s: tuple[float, ...]
    """seconds per call"""
    host_s: tuple[float, ...] = ()
    """CUDA: host seconds per call, launches only; empty on a CPU"""
    calls_per_sample: int = 1
    converged: bool = False
    """whether the median's 95 % interval was within ±2 % of the median in the end"""
    warmup_s: float = 0.0
    timer_cost_s: float = 0.0
    """cost of reading the clock itself, not subtracted"""
    remeasured: bool = False
    contention: Contention | None = None
    first_call_s: float = 0.0
    """the first call of the phase, with compilation and autotuning; it is no sample and not part of `warmup_s`"""

    @property
    def contended(self) -> bool:
        """Whether other processes were seen to use the machine; False where that was not watched."""
        return self.contention is not None and self.contention.contended


@dataclass(frozen=True)
class Peak:
    """Largest number of bytes held at once during a phase."""

    total_bytes: int
    """all bytes that the allocator had allocated, with weights and inputs, without the workspaces kept for cuBLAS"""
    above_baseline_bytes: int
    """bytes above those held before the phase began"""
    reserved_bytes: int | None = None
    """CUDA: bytes reserved by PyTorch's caching allocator, with the kept workspaces"""
    process_bytes: int | None = None
    """CUDA: bytes of the whole process, by NVML"""


@dataclass(frozen=True)
class Memory:
    """Bytes by their use, and the peak of each phase."""

    source: str
    """which allocator was read: 'cuda allocator' or 'cpu allocator events'"""
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int | None
    """None here, and in the fields below: no phase that allocates these bytes was measured"""
    optimizer_bytes: int | None
    input_bytes: int
    output_bytes: int
    saved_bytes: int | None
    """bytes that autograd keeps for the backward pass: each storage once, with weights and input where they are kept"""
    saved_per_image_bytes: float | None = None
    """slope in the batch size: the input half"""
    saved_constant_bytes: float | None = None
    """intercept at batch size 0: the parameter half"""
    peaks: dict[str, Peak] = field(default_factory=dict)
    workspace_bytes: int | None = None
    """CUDA: workspaces that PyTorch's allocator keeps for cuBLAS and cuBLASLt; in no peak's `total_bytes`"""
    unseen_bytes: int = 0
    """bytes that outlive a training forward pass, but were not given to autograd to save; they are not in `saved_bytes`"""
    failures: dict[str, str] = field(default_factory=dict)
    """what could not be measured (a phase, 'saved', 'other batch size', 'unseen') → why"""


@dataclass(frozen=True)
class Macs:
    """Counted real multiply-accumulates of one call (a complex one is 4); FLOPs are twice the MACs."""

    phases: dict[str, int]
    by_operation: dict[str, int]
    """operation → MACs of one training forward pass"""
    unsupported: tuple[str, ...] = ()
    """operations without a formula: they are not counted, but their MACs need not be zero"""
    per_image: float | None = None
    """slope of the training forward pass in the batch size: the input half"""
    constant: float | None = None
    """intercept of the same line: the parameter half"""
    published_phases: dict[str, int] = field(default_factory=dict)
    """`phases` in the convention of Table 1: a complex multiply-accumulate counts as one"""
    fvcore_forward: int | None = None
    fvcore_unsupported: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    """what could not be counted (a phase, 'update', 'other batch size', 'fvcore') → why"""


Verdict = Literal["ok", "not refuted", "violates", "cannot tell"]
"""Whether a module is what it claims: proved, not refuted by the lower bounds found, refuted, or not known."""


@dataclass(frozen=True)
class Bound:
    """A Lipschitz constant by one method of computation, in float64."""

    largest: float
    """largest singular value of a linear map; for other maps the constant or a bound of it"""
    smallest: float | None
    """smallest singular value; None where the map is not linear"""
    kind: str
    """'exact' · 'lower bound' · 'upper bound'"""
    how: str
    """'fourier': all Fourier blocks · 'dense': all singular values · 'lanczos': both ends of the spectrum, with a residual ·
    'ascent': random points and gradient ascent · 'jump': both sides of a discontinuity · 'product': product over the layers of
    a network · 'composition': from the constants of all operations"""
    image_size: int
    """image size that the bound is valid for"""
    residual: float = 0.0
    """‖JᵀJ v − σ² v‖ ÷ σ² of the largest singular value's vector v; 0 where all singular values were computed"""
    uncertainty: float = 0.0
    """half width of the interval around `largest` that contains the true value, because of noise or low precision in the map;
    of a lower bound, what was subtracted from the ratio that was found"""


@dataclass(frozen=True)
class Certificate:
    """Whether a module is 1-Lipschitz with the weights that it was measured with. Quote the first bound of a mode."""

    evaluation: tuple[Bound, ...]
    training: tuple[Bound, ...]
    """bounds of the training forward pass, with its truncated series or unconverged norm"""
    growing: tuple[str, ...] = ()
    """network: layers in which the variance over a batch grew, which cannot happen in a 1-Lipschitz layer"""
    unknown: str = ""
    """why the bounds in evaluation mode do not tell whether the claim holds, as in "computes in bfloat16"; "" where they do"""
    remarks: tuple[str, ...] = ()
    """what a reader must know of these bounds, one line each, as in "two calls on one input differ by 3e-01" """
    claimed: float = 1.0
    """Lipschitz constant that the module claims"""


FormulaSymbol = Literal["b", "s", "n", "c", "k", "t", "t1", "t2"]
"""the symbols of `theory`"""


@dataclass(frozen=True)
class Term:
    """A term of a formula: a fraction times powers of symbols times base-2 logarithms of symbols."""

    numerator: int
    denominator: int
    exponents: dict[FormulaSymbol, int]
    logs: tuple[FormulaSymbol, ...] = ()


@dataclass(frozen=True)
class Formula:
    """A fitted cost formula of one half and quantity of a layer, as in `prediction.complexity.Fitted`."""

    half: Literal["input", "parameters"]
    quantity: Literal["macs", "memory"]
    terms: tuple[Term, ...]
    terms_at_kernel_1: tuple[Term, ...] | None
    residual: float | None
    """None where there were no held-out sizes"""
    points: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """What a report shows beside the measurements of an external layer, counted on fake tensors."""

    formulas: tuple[Formula, ...] = ()
    """of the layer, in one record of a run; empty in the others"""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """phase → predicted peak of this case, to compare with `Peak.total_bytes`"""
    notes: dict[str, str] = field(default_factory=dict)
    """of `ESTIMATED` → why it could not be counted"""


@dataclass(frozen=True)
class Machine:
    """Hardware and software that a round ran on."""

    hostname: str
    system: str
    cpu: str
    cores: int
    memory_bytes: int
    python: str
    torch: str
    packages: dict[str, str]
    commit: str | None
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    gpu_l2_bytes: int | None = None
    driver: str | None = None
    cuda: str | None = None
    gpu_uuid: str | None = None
    """UUID as CUDA reports it, without the prefix of nvidia-smi; it distinguishes GPUs of the same name"""
    flags: dict[str, str] = field(default_factory=dict)
    """active precision and autotuning flags, threads, affinity"""
