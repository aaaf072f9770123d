"""The hot spots that kernels compute: their inputs at a layer's shape, the kernel's call, and the operations it replaces.

The replaced operations are the `paper` implementations' own, on any device and in any precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from lipbench_kernels import bjorck, newton
from lipbench_kernels.aol_bound import aol_bound
from lipbench_kernels.soc_series import soc_series, soc_step
from torch import Tensor
from torch.nn import functional

from lipbench.layers import aol, bcop, lot, soc
from lipbench.layers.bcop import BJORCK_BETA, BJORCK_ITERATIONS
from lipbench.layers.lot import NEWTON_ITERATIONS
from lipbench.layers.soc import TRAINING_TERMS as TERMS

ORDER = 2
"""order of the step of SOC's series that is measured alone"""


@dataclass(frozen=True, order=True)
class Shape:
    """A layer, `channels` → `channels` on square images, and the number of images."""

    channels: int
    image_size: int
    kernel_size: int
    batch_size: int


@dataclass(frozen=True, eq=False)
class HotSpot:
    """A piece of a layer that a kernel may compute."""

    name: str
    summary: str
    inputs: Callable[[Shape], tuple[Tensor, ...]]
    """float64 tensors on the CPU, drawn from PyTorch's generator; all are differentiated"""
    replaced: Callable[..., Tensor]
    """of those inputs, in any dtype"""
    fused: Callable[..., Tensor]
    """(precision, *inputs), in float32"""
    kernels: Mapping[str, Sequence[str]]
    """phase → the kernels of the catalogue that compute it"""
    sizes: Callable[[Shape], dict[str, int]]
    """the sizes by the names that the catalogue uses"""
    sign_gradient: bool = False
    """the gradient contains signs of sums, and jumps where a sum is near 0"""
    programs: Callable[[Shape], int] | None = None
    """number of concurrent programs, where a GPU may have more multiprocessors"""
    largest: Callable[[str], int] | None = None
    """precision → the largest number of channels that the kernel takes; None: any number"""
    seen: Callable[[Shape], tuple[int, ...]] = lambda shape: (shape.channels, shape.kernel_size)
    """the parts of a layer's shape on which the hot spot depends; layers with equal parts are equivalent"""

    def takes(self, shape: Shape, precision: str) -> bool:
        """Whether the kernel takes a layer of this shape."""
        return self.largest is None or shape.channels <= self.largest(precision)


# ---------------------------------------------------------------------------------------------------------- AOL and SLL


def _kernel(shape: Shape) -> Tensor:
    return torch.randn(shape.channels, shape.channels, shape.kernel_size, shape.kernel_size, dtype=torch.float64)


def _aol_inputs(shape: Shape) -> tuple[Tensor, ...]:
    return (_kernel(shape) / math.sqrt(shape.channels),)


def _aol_replaced(kernel: Tensor) -> Tensor:
    return aol.self_correlation(kernel).abs().sum((1, 2, 3))


def _aol_fused(precision: str, kernel: Tensor) -> Tensor:
    return aol_bound(kernel, precision=precision)


def _sll_inputs(shape: Shape) -> tuple[Tensor, ...]:
    return _kernel(shape) / math.sqrt(shape.channels), torch.rand(shape.channels, dtype=torch.float64) + 0.1


def _sll_replaced(kernel: Tensor, weights: Tensor) -> Tensor:
    correlation = aol.self_correlation(kernel.transpose(0, 1))
    return torch.mv(correlation.abs().sum((2, 3)), weights)


def _sll_fused(precision: str, kernel: Tensor, weights: Tensor) -> Tensor:
    return aol_bound(kernel.transpose(0, 1), weights, precision)


# ------------------------------------------------------------------------------------------------------------------ SOC


def _soc_inputs(shape: Shape) -> tuple[Tensor, ...]:
    """Images, and a skew kernel whose map has a norm of about 0.7, or 1 for k = 1."""
    kernel = _kernel(shape)
    skew = soc.skew_kernel(kernel)
    scale = (0.7 if shape.kernel_size > 1 else 1.0) / (math.sqrt(2 * shape.channels) * shape.kernel_size)
    images = torch.randn(shape.batch_size, shape.channels, shape.image_size, shape.image_size, dtype=torch.float64)
    return images, skew * scale


def _soc_replaced(x: Tensor, kernel: Tensor) -> Tensor:
    return soc.exponential(x, kernel, TERMS)


def _soc_fused(precision: str, x: Tensor, kernel: Tensor) -> Tensor:
    return soc_series(x, kernel, TERMS, precision)


def _soc_step_inputs(shape: Shape) -> tuple[Tensor, ...]:
    images, kernel = _soc_inputs(shape)
    return torch.randn_like(images), images, kernel


def _soc_step_replaced(h: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    return x + functional.conv2d(h, kernel, padding=kernel.shape[-1] // 2) / ORDER


def _soc_step_fused(precision: str, h: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    return soc_step(h, x, kernel, ORDER, precision)


# ---------------------------------------------------------------------------------------------------------- BCOP and LOT


def _bjorck_inputs(shape: Shape) -> tuple[Tensor, ...]:
    """The 2k − 1 free matrices of a BCOP layer, divided by about their norms."""
    matrices = torch.randn(2 * shape.kernel_size - 1, shape.channels, shape.channels, dtype=torch.float64)
    return (matrices / (2 * math.sqrt(shape.channels)),)


def _bjorck_replaced(matrices: Tensor) -> Tensor:
    return bcop.bjorck_steps(matrices, BJORCK_ITERATIONS)


def _bjorck_fused(precision: str, matrices: Tensor) -> Tensor:
    return bjorck.bjorck(matrices, BJORCK_ITERATIONS, BJORCK_BETA, precision)


def frequencies(shape: Shape) -> int:
    """Number of frequencies in the half plane that a LOT layer orthogonalises."""
    size = shape.image_size + 2 * (shape.kernel_size // 2)
    return size * (size // 2 + 1)


def _newton_inputs(shape: Shape) -> tuple[Tensor, ...]:
    """`V Vᴴ + ε I` over its norm at every frequency, V close to the identity, from which LOT starts."""
    identity = torch.eye(shape.channels, dtype=torch.complex128)
    noise = torch.randn(frequencies(shape), shape.channels, shape.channels, dtype=torch.complex128)
    blocks = identity + 0.3 / math.sqrt(shape.channels) * noise
    return (lot.normalized_covariance(blocks)[0],)


def _newton_replaced(y: Tensor) -> Tensor:
    return lot.inverse_root(y, NEWTON_ITERATIONS)


def _newton_fused(precision: str, y: Tensor) -> Tensor:
    return newton.newton_inverse_root(y, NEWTON_ITERATIONS, precision)


def _images(shape: Shape) -> tuple[int, ...]:
    return shape.channels, shape.kernel_size, shape.image_size, shape.batch_size


HOT_SPOTS: Mapping[str, HotSpot] = {
    "aol": HotSpot(
        "aol", "AOL's bound", _aol_inputs, _aol_replaced, _aol_fused,
        {"forward": ("aol_bound",), "backward": ("aol_bound_backward",)},
        lambda shape: {"o": shape.channels, "i": shape.channels, "k": shape.kernel_size},
        sign_gradient=True,
    ),
    "sll": HotSpot(
        "sll", "SLL's bound, with q", _sll_inputs, _sll_replaced, _sll_fused,
        {"forward": ("aol_bound",), "backward": ("aol_bound_backward",)},
        lambda shape: {"o": shape.channels, "i": shape.channels, "k": shape.kernel_size, "weighted": 1},
        sign_gradient=True,
    ),
    "soc-step": HotSpot(
        "soc-step", "One step of SOC's series", _soc_step_inputs, _soc_step_replaced, _soc_step_fused,
        {"forward": ("soc_step",), "backward": ("soc_step_backward",)},
        lambda shape: {"b": shape.batch_size, "c": shape.channels, "s": shape.image_size, "k": shape.kernel_size},
        seen=_images,
    ),
    "soc": HotSpot(
        "soc", f"SOC's series of {TERMS} terms", _soc_inputs, _soc_replaced, _soc_fused,
        {"forward": ("soc_series",), "backward": ("soc_series_backward",)},
        lambda shape: {
            "b": shape.batch_size, "c": shape.channels, "s": shape.image_size, "k": shape.kernel_size, "t": TERMS,
        },
        seen=_images,
    ),
    "bjorck": HotSpot(
        "bjorck", f"BCOP's {BJORCK_ITERATIONS} Björck steps", _bjorck_inputs, _bjorck_replaced, _bjorck_fused,
        {"forward": ("bjorck",), "backward": ("bjorck_backward",)},
        lambda shape: {
            "n": 2 * shape.kernel_size - 1, "r": shape.channels, "c": shape.channels, "iterations": BJORCK_ITERATIONS,
        },
        programs=lambda shape: 2 * shape.kernel_size - 1, largest=bjorck.largest,
    ),
    "newton": HotSpot(
        "newton", f"LOT's {NEWTON_ITERATIONS} Newton steps", _newton_inputs, _newton_replaced, _newton_fused,
        {"forward": ("newton_inverse_root",), "backward": ("newton_inverse_root_backward",)},
        lambda shape: {"f": frequencies(shape), "n": shape.channels, "iterations": NEWTON_ITERATIONS},
        programs=frequencies, largest=newton.largest, seen=lambda shape: (shape.channels, shape.kernel_size, shape.image_size),
    ),
}  # fmt: skip
