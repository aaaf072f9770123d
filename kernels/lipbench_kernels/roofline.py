"""The roofline model: peaks of named GPUs, and the shortest possible time of a computation on them.

Source: Williams, Waterman & Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures",
Communications of the ACM 52 (2009). The times are predictions: the least that an ideal program needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this table is also read where there is no triton
    from lipbench_kernels.launching import Work

GAP_S = 2e-6
"""seconds that the device idles between two launches that wait in its queue; an assumption, no data sheet has it"""
HOST_S = 5e-6
"""seconds that the host needs for an operation of eager PyTorch; an assumption, no data sheet has it"""
TUNED_HOST_S = 60e-6
"""seconds that the host needs for a tuned kernel inside a custom operator: the middle of the 40 to 80 µs that a reader of
the first predictions reported; not measured here"""
SCHEDULERS = 4
"""of a multiprocessor; each issues an instruction of a warp in a cycle (NVIDIA's whitepapers of A100, H100 and Blackwell)"""
WARP_THREADS = 32


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet; tensor-core figures without sparsity."""

    name: str
    architecture: str
    float32_flops_per_s: float
    """multiply and add are two"""
    tf32_flops_per_s: float
    half_flops_per_s: float
    """of bfloat16 and float16, with sums in float32"""
    float64_flops_per_s: float
    """with tensor cores where they have float64"""
    bytes_per_s: float
    multiprocessors: int
    lanes: int
    """number of threads whose float32 multiply-add a scheduler starts in a cycle"""
    device_name: str
    """a pattern for PyTorch's name of the device; cards with other clocks or memory have other names"""
    source: str

    def flops_per_s(self, precision: str) -> float:
        """The peak in a precision of `launching.PRECISIONS`; tf32x3 replaces each product by three."""
        return {
            "ieee": self.float32_flops_per_s, "tf32": self.tf32_flops_per_s, "tf32x3": self.tf32_flops_per_s / 3,
        }[precision]  # fmt: skip

    def ridge(self, precision: str) -> float:
        """FLOPs per byte above which arithmetic, not memory, determines the time."""
        return self.flops_per_s(precision) / self.bytes_per_s

    @property
    def issues_per_s(self) -> float:
        """Instructions of warps that all schedulers issue, at the clock of the float32 peak: 4 · 132 · 1.98 GHz for an H100."""
        return self.float32_flops_per_s / (2 * self.lanes)

    def program_flops_per_s(self, precision: str, loop_instructions: int, loop_macs: int) -> float | None:
        """The ceiling of a program from the counts of its busiest loop, by `machine_code`; None where they are unknown (0).

        At most the peak. A product in tf32x3 takes three of the loop's products.
        """
        if not loop_instructions or not loop_macs:
            return None
        macs = loop_macs / 3 if precision == "tf32x3" else loop_macs
        return min(self.flops_per_s(precision), 2 * macs / loop_instructions * self.issues_per_s)


GPUS: Mapping[str, Gpu] = {
    "A100": Gpu(
        "A100", "sm_80", 19.5e12, 156e12, 312e12, 19.5e12, 2.039e12, 108, 16, r"A100-SXM\S*-80GB",
        "NVIDIA A100 Tensor Core GPU, data sheet (2021), SXM, 80 GB",
    ),
    "H100": Gpu(
        "H100", "sm_90", 66.9e12, 494.7e12, 989.4e12, 66.9e12, 3.352e12, 132, 32, r"H100 80GB HBM3",
        "NVIDIA H100 Tensor Core GPU Architecture, whitepaper (2022), SXM5",
    ),
    "H200": Gpu(
        "H200", "sm_90", 66.9e12, 494.7e12, 989.4e12, 66.9e12, 4.8e12, 132, 32, r"\bH200$",
        "NVIDIA H200 Tensor Core GPU, data sheet (2024), SXM; arithmetic as H100",
    ),
    "B200": Gpu(
        "B200", "sm_100", 80e12, 1100e12, 2250e12, 40e12, 8e12, 148, 32, r"\bB200$",
        "NVIDIA Blackwell Architecture, technical brief (2024), HGX B200",
    ),
    "L4": Gpu(
        "L4", "sm_89", 30.3e12, 60e12, 121e12, 30.3e12 / 64, 0.3e12, 58, 32, r"\bL4$",
        "NVIDIA L4 Tensor Core GPU, data sheet (2023), without sparsity; float64 as in the whitepaper of Ada",
    ),
    "L40S": Gpu(
        "L40S", "sm_89", 91.6e12, 183e12, 362e12, 91.6e12 / 64, 0.864e12, 142, 32, r"\bL40S$",
        "NVIDIA L40S, data sheet (2023), without sparsity; float64 as in the whitepaper of Ada",
    ),
    "RTX 4090": Gpu(
        "RTX 4090", "sm_89", 82.6e12, 82.6e12, 165.2e12, 82.6e12 / 64, 1.008e12, 128, 32, r"\bRTX 4090$",
        "NVIDIA Ada GPU Architecture, whitepaper (2022), table of GeForce RTX 4090; 2 float64 units beside 128 of float32",
    ),
}  # fmt: skip


def find(architecture: str) -> Gpu | None:
    """The first named GPU of an architecture such as 'sm_90', None if there is none."""
    return next((gpu for gpu in GPUS.values() if gpu.architecture == architecture), None)


def by_device_name(name: str) -> Gpu | None:
    """The named GPU for a name from `torch.cuda.get_device_name()`, None for others."""
    return next((gpu for gpu in GPUS.values() if re.search(gpu.device_name, name)), None)


def device_s(work: Work, gpu: Gpu, precision: str, programs: int | None = None, flops_per_s: float | None = None) -> float:
    """Least seconds of the device: the longer of arithmetic and memory traffic.

    Fewer `programs` than the GPU has multiprocessors use only their share of it; None means that there are enough.
    Arithmetic runs at the GPU's peak, or at `flops_per_s` where a program's own ceiling is known.
    """
    share = 1.0 if programs is None else min(1.0, programs / gpu.multiprocessors)
    compute_s = 2 * work.macs / (flops_per_s or gpu.flops_per_s(precision))
    return max(compute_s, (work.read_bytes + work.written_bytes) / gpu.bytes_per_s) / share


def host_s(work: Work) -> float:
    """Seconds that the host needs for all launches."""
    return HOST_S * (work.launches - work.tuned) + TUNED_HOST_S * work.tuned


def elapsed_s(device_s: float, work: Work) -> float:
    """Seconds until the work is done: the longer of the device's time with the gaps between launches and the host's."""
    return max(device_s + GAP_S * work.launches, host_s(work))


def predicted_s(work: Work, gpu: Gpu, precision: str, programs: int | None = None, flops_per_s: float | None = None) -> float:
    """Predicted seconds from the first launch to the last result."""
    return elapsed_s(device_s(work, gpu, precision, programs, flops_per_s), work)


def bound(work: Work, gpu: Gpu, precision: str) -> str:
    """What determines the predicted time: 'host'; 'gaps' where the device idles between launches for more than half of it; else
    'compute' or 'memory'."""
    busy_s = device_s(work, gpu, precision)
    if host_s(work) > busy_s + GAP_S * work.launches:
        return "host"
    if GAP_S * work.launches > busy_s:
        return "gaps"
    return "compute" if work.intensity > gpu.ridge(precision) else "memory"


def gain(fused: Work, replaced: Work, gpu: Gpu, precision: str) -> float:
    """Predicted time of the replaced operations over that of the kernel, both in the same precision."""
    return predicted_s(replaced, gpu, precision) / predicted_s(fused, gpu, precision)
