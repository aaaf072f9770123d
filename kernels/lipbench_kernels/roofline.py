"""What named GPUs could do at best, and so how long a computation takes at least: the roofline model.

Source: Williams, Waterman & Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures",
Communications of the ACM 52 (2009). Times from here are predictions, lower bounds of what an ideal program needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lipbench_kernels.launching import Work

LAUNCH_S = 5e-6
"""seconds that one launch takes of a device that waits for the next; an assumption, no data sheet has it. Eager PyTorch needs
about as long for one operation."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet; tensor-core figures without sparsity."""

    name: str
    architecture: str
    float32_flops_per_s: float
    """multiply and add are two"""
    tf32_flops_per_s: float
    bytes_per_s: float
    multiprocessors: int
    device_name: str
    """a pattern in what PyTorch calls the device; cards with other clocks or memory have other names"""
    source: str

    def flops_per_s(self, precision: str) -> float:
        """The peak in a precision of `launching.PRECISIONS`; tf32x3 makes three products of each."""
        return {
            "ieee": self.float32_flops_per_s, "tf32": self.tf32_flops_per_s, "tf32x3": self.tf32_flops_per_s / 3,
        }[precision]  # fmt: skip

    def ridge(self, precision: str) -> float:
        """FLOPs per byte from which on arithmetic, not memory, sets the time."""
        return self.flops_per_s(precision) / self.bytes_per_s


GPUS: Mapping[str, Gpu] = {
    "A100": Gpu(
        "A100", "sm_80", 19.5e12, 156e12, 2.039e12, 108, r"A100-SXM\S*-80GB",
        "NVIDIA A100 Tensor Core GPU, data sheet (2021), SXM, 80 GB",
    ),
    "H100": Gpu(
        "H100", "sm_90", 66.9e12, 494.7e12, 3.352e12, 132, r"H100 80GB HBM3",
        "NVIDIA H100 Tensor Core GPU Architecture, whitepaper (2022), SXM5",
    ),
    "H200": Gpu(
        "H200", "sm_90", 66.9e12, 494.7e12, 4.8e12, 132, r"\bH200$",
        "NVIDIA H200 Tensor Core GPU, data sheet (2024), SXM; arithmetic as H100",
    ),
    "B200": Gpu(
        "B200", "sm_100", 80e12, 1100e12, 8e12, 148, r"\bB200$",
        "NVIDIA Blackwell Architecture, technical brief (2024), HGX B200",
    ),
}  # fmt: skip


def find(architecture: str) -> Gpu | None:
    """The first named GPU of an architecture such as 'sm_90', None where none is named."""
    return next((gpu for gpu in GPUS.values() if gpu.architecture == architecture), None)


def by_device_name(name: str) -> Gpu | None:
    """The named GPU that `torch.cuda.get_device_name()` means, None for others."""
    return next((gpu for gpu in GPUS.values() if re.search(gpu.device_name, name)), None)


def device_s(work: Work, gpu: Gpu, precision: str, programs: int | None = None) -> float:
    """Seconds that the device needs at least: those of the arithmetic or those of the memory, whichever are more.

    Fewer `programs` than the GPU has multiprocessors use no more than their share of it; None means that there are enough.
    """
    share = 1.0 if programs is None else min(1.0, programs / gpu.multiprocessors)
    compute_s = 2 * work.macs / gpu.flops_per_s(precision)
    return max(compute_s, (work.read_bytes + work.written_bytes) / gpu.bytes_per_s) / share


def predicted_s(work: Work, gpu: Gpu, precision: str, programs: int | None = None) -> float:
    """Predicted seconds: the device's, and the launches'."""
    return device_s(work, gpu, precision, programs) + LAUNCH_S * work.launches


def bound(work: Work, gpu: Gpu, precision: str) -> str:
    """What sets the predicted time: 'launches' where they are more than half of it, else 'compute' or 'memory'."""
    if LAUNCH_S * work.launches > device_s(work, gpu, precision):
        return "launches"
    return "compute" if work.intensity > gpu.ridge(precision) else "memory"


def gain(fused: Work, replaced: Work, gpu: Gpu, precision: str) -> float:
    """Predicted time of the replaced operations over that of the kernel, both in the same precision."""
    return predicted_s(replaced, gpu, precision) / predicted_s(fused, gpu, precision)
