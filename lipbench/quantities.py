"""What the meters return: plain frozen data, in SI units with the unit in the name. No torch, so that runs are read quickly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

GROUPS = {
    "training": ("forward", "backward"), "step": ("step",), "parametrize": ("parametrize",), "inference": ("inference",),
    "first_inference": ("first_inference",),
}  # fmt: skip
"""Phases that are timed together, by the name of their group: the one list of phases, in order.

forward: training mode, graph kept · backward · step: forward, backward and SGD update · parametrize: the parameter half alone ·
inference: evaluation mode, cache warm · first_inference: cache cold.
"""
PHASES = tuple(phase for phases in GROUPS.values() for phase in phases)
TRAINING_PHASES = (*GROUPS["training"], *GROUPS["step"])
EXAMINED = ("macs", "certificate")
"""Parts of a measurement that no clock takes part in: they are the same in every round, and may be found elsewhere."""
PARTS = (*GROUPS, "memory", *EXAMINED)
"""What a case is measured for. Each part succeeds or fails on its own."""

CautionKind = Literal[
    "contended",  # others used the machine while the phases were timed
    "unsettled",  # the median of the phases had not converged at the time limit
    "low_clock",  # the GPU itself lowered its clock during the phases
    "interpreted",  # Triton kernels ran in their interpreter
    "one_process",  # how much processes differ is not known
    "threads",  # torch ran another number of threads than the case names
    "precision",  # the case's precision has no effect on its device
    "no_certificate",  # none was found, in one mode or in both
    "graph_break",  # torch.compile left the graph
    "recompiled",  # torch.compile compiled the phases again after their first call
    "inexact",  # the compiled output differs from the uncompiled one
    "uncompared",  # or could not be compared with it
    "fallback",  # layers computed without their kernel
    "other",  # a text that a program of schema 1 or 2 wrote, and no rule knows
]  # an older program cannot read a new kind, so one more means one more of `store.rounds.SCHEMA`
"""What a warning is about. Reports choose by this, never by the words of the text."""


@dataclass(frozen=True)
class Caution:
    """A warning about measured numbers. `Warning` is the name of a class of Python itself."""

    kind: CautionKind
    phases: tuple[str, ...]
    """those that it is about; empty where it is about the case as a whole"""
    text: str
    """one line: what makes the numbers doubtful, and what to do"""


@dataclass(frozen=True)
class Contention:
    """Who else used the machine while a phase was timed."""

    own_share: float
    """own CPU time ÷ (wall time × threads)"""
    foreign_share: float
    """CPU time of other processes ÷ (wall time × cores)"""
    involuntary_switches: int
    gpu_processes: int | None = None
    """other processes that compute on the GPU; None where NVML does not say"""
    gpu_clock_share: float | None = None
    """SM clock ÷ its maximum, right after the phase"""
    contended: bool = False
    """over the limits of the meter, in both attempts; a low clock is, unless the GPU gives a reason of its own for it"""
    gpu_clock_limited_by: tuple[str, ...] = ()
    """what the GPU itself says lowers its clock: 'power limit', 'temperature', 'idle', 'application clocks' and so on; where
    it says nothing, or the clock is not lowered, nothing"""


@dataclass(frozen=True)
class Timing:
    """Raw samples of one phase in one process. Statistics are derived on reading."""

    samples_s: tuple[float, ...]
    """seconds per call"""
    host_s: tuple[float, ...] = ()
    """CUDA: host seconds per call, launches only; empty on a CPU"""
    calls_per_sample: int = 1
    converged: bool = False
    """stopped because the median's 95 % interval was within ±2 % of it, not at the limit"""
    warmup_s: float = 0.0
    timer_cost_s: float = 0.0
    """cost of reading the clock itself, not subtracted"""
    remeasured: bool = False
    contention: Contention | None = None
    first_call_s: float = 0.0
    """the very first call of the phase, compilation and autotuning included; no sample, and not part of `warmup_s`"""


@dataclass(frozen=True)
class Peak:
    """Largest number of bytes held at once during a phase."""

    total_bytes: int
    """everything the allocator had handed out, weights and inputs included, workspaces that are kept for cuBLAS not"""
    above_baseline_bytes: int
    """above what was held before the phase began"""
    reserved_bytes: int | None = None
    """CUDA: held by PyTorch's caching allocator, kept workspaces included"""
    process_bytes: int | None = None
    """CUDA: the whole process, by NVML"""


@dataclass(frozen=True)
class Memory:
    """Bytes by what holds them, and the peak of each phase."""

    source: str
    """which allocator was read: 'cuda allocator' or 'cpu allocator events'"""
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int | None
    """this, and the two below where they are None: no phase that makes them was measured"""
    optimizer_bytes: int | None
    input_bytes: int
    output_bytes: int
    saved_bytes: int | None
    """kept by autograd for the backward pass, unique storages, weights and input included where they are kept"""
    saved_per_image_bytes: float | None = None
    """slope in the batch size: the input half"""
    saved_constant_bytes: float | None = None
    """intercept at batch size 0: the parameter half"""
    peaks: dict[str, Peak] = field(default_factory=dict)
    workspace_bytes: int | None = None
    """CUDA: what PyTorch's allocator hands out as workspaces of cuBLAS and cuBLASLt and keeps; in no peak's `total_bytes`"""


@dataclass(frozen=True)
class Macs:
    """Real multiply-accumulates of one call, counted (a complex one is 4); FLOPs are twice that."""

    phases: dict[str, int]
    by_operation: dict[str, int]
    """of one training forward pass"""
    unsupported: tuple[str, ...] = ()
    """operations that have no formula: not counted, and not zero"""
    per_image: float | None = None
    """slope in the batch size of the training forward pass: the input half"""
    constant: float | None = None
    """its intercept: the parameter half"""
    published_phases: dict[str, int] = field(default_factory=dict)
    """the same as `phases` in the convention of Table 1: a complex multiply-accumulate is one"""
    fvcore_forward: int | None = None
    fvcore_unsupported: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bound:
    """A Lipschitz constant found in one way, in float64."""

    largest: float
    """largest singular value of a linear map, else the constant or a bound of it"""
    smallest: float | None
    """smallest singular value; None where the map is not linear"""
    kind: str
    """'exact' · 'lower bound' · 'upper bound'"""
    how: str
    """'fourier': all Fourier blocks · 'dense': all singular values · 'lanczos': both ends of the spectrum, with a residual ·
    'ascent': random points and ascent · 'product': over the layers of a network"""
    image_size: int
    """of the images it holds for"""
    residual: float = 0.0
    """‖JᵀJ v − σ² v‖ ÷ σ² of the largest singular value's vector v; 0 where all singular values were computed"""


@dataclass(frozen=True)
class Certificate:
    """Whether a module keeps its promise on the weights it was measured with; the first bound of a mode is the one to quote."""

    evaluation: tuple[Bound, ...]
    training: tuple[Bound, ...]
    """as a training forward pass computes it, with its truncated series or unconverged norm"""
    growing: tuple[str, ...] = ()
    """network: layers after which the variance over a batch has grown, which no 1-Lipschitz layer lets it"""


@dataclass(frozen=True)
class Machine:
    """Where and with what a round ran."""

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
    """as CUDA gives it, without the letters that nvidia-smi puts before it; tells two GPUs of one name apart"""
    flags: dict[str, str] = field(default_factory=dict)
    """precision and autotuning flags in force, threads, affinity"""
