"""SOC: skew-orthogonal convolutions, the exponential of a skew-symmetric convolution as a truncated Taylor series.

Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021, arXiv 2105.11417.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.base import (
    Implementation,
    LipschitzConv2d,
    Method,
    WithKernel,
    refresh_loaded,
    refresh_steps,
)
from lipbench.layers.lean import series
from lipbench.theory import C, Complexity, Cost, M, P, c, k, t1, t2

TRAINING_TERMS = 5
EVALUATION_TERMS = 12
REFRESH_ITERATIONS = 50
SCALE = 0.7


def skew_kernel(kernel: Tensor) -> Tensor:
    """`L = (K − flip(Kᵀ)) / 2` for a kernel (c, c, k, k): with zero padding 'same', its map is skew-symmetric."""
    return (kernel - kernel.transpose(0, 1).flip(2, 3)) / 2


def matricizations(kernel: Tensor) -> tuple[Tensor, ...]:
    """The four matrices of a kernel (o, i, k, k) whose norms times k bound the convolution's norm (arXiv 2105.11417)."""
    outputs, inputs, size, _ = kernel.shape
    return (
        kernel.permute(0, 2, 1, 3).reshape(outputs * size, inputs * size),
        kernel.permute(0, 3, 1, 2).reshape(outputs * size, inputs * size),
        kernel.reshape(outputs, inputs * size * size),
        kernel.permute(0, 2, 3, 1).reshape(outputs * size * size, inputs),
    )


def exponential(x: Tensor, kernel: Tensor, terms: int) -> Tensor:
    """`Σ_{n=0..terms} Lⁿ x / n!` for images (b, c, s, s) and a kernel (c, c, k, k), zero padding."""
    total = term = x
    for n in range(1, terms + 1):
        term = functional.conv2d(term, kernel, padding=kernel.shape[-1] // 2) / n
        total = total + term
    return total


class SOCConv2d(LipschitzConv2d):
    """`y = Σ_{n=0..t} Lⁿ x / n! + bias`, `L ← 0.7 L / σ` (1.0 for k = 1); 5 terms in training, 12 in evaluation, zero padding.

    σ is the smallest of the four matricisations' norms, each `uᵀ L v` with unit vectors that take one step of power iteration
    in every training forward pass. Call `refresh()` every 200 training steps. If the numbers of channels differ, the layer
    computes with the larger one and pads with zeros or cuts. With 5 terms, it is not exactly orthogonal. Raises
    `UnsupportedError` for one channel and k = 1, where L is 0.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        channels = max(in_channels, out_channels)
        if channels == kernel_size == 1:
            raise errors.only_zero("SOC")
        self.weight = nn.Parameter(torch.randn(channels, channels, kernel_size, kernel_size) / math.sqrt(channels))
        bound = 1 / math.sqrt(out_channels)
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        for index, matrix in enumerate(matricizations(self.weight.detach())):
            self.register_buffer(f"left{index}", functional.normalize(torch.randn(matrix.shape[0]), dim=0))
            self.register_buffer(f"right{index}", functional.normalize(torch.randn(matrix.shape[1]), dim=0))
        self.register_load_state_dict_post_hook(refresh_loaded)  # type: ignore[no-untyped-call]  # torch types it nowhere
        self.refresh()

    def _vectors(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.get_buffer(f"left{index}"), self.get_buffer(f"right{index}")) for index in range(4)]

    @torch.no_grad()
    def _power_iteration(self, matrices: tuple[Tensor, ...], steps: int) -> list[tuple[Tensor, Tensor]]:
        """Singular vectors after the given number of steps; they are also stored in the buffers."""
        stepped = []
        for matrix, (left_buffer, right_buffer) in zip(matrices, self._vectors()):
            left, right = left_buffer, right_buffer
            for _ in range(steps):
                left = functional.normalize(torch.mv(matrix, right), dim=0)
                right = functional.normalize(torch.mv(matrix.T, left), dim=0)
            left_buffer.copy_(left)
            right_buffer.copy_(right)
            stepped.append((left, right))
        return stepped

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the power iterations to convergence on the present kernel, by 50 steps outside any graph."""
        self._power_iteration(matricizations(skew_kernel(self.weight)), refresh_steps(self.weight, REFRESH_ITERATIONS))

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """The left and right vectors of the four matrices, after one step of power iteration in training mode."""
        if not self.training:
            return tuple(itertools.chain.from_iterable(self._vectors()))
        matrices = matricizations(skew_kernel(self.weight.detach()))
        return tuple(itertools.chain.from_iterable(self._power_iteration(matrices, 1)))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        kernel = skew_kernel(self.weight)
        vectors = zip(advanced[0::2], advanced[1::2])
        norms = [torch.dot(left, torch.mv(matrix, right)) for matrix, (left, right) in zip(matricizations(kernel), vectors)]
        scale = 1.0 if self.kernel_size == 1 else SCALE
        return (scale * kernel / torch.stack(norms).amin(),)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        (kernel,) = effective
        if self.in_channels < self.out_channels:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))
        terms = TRAINING_TERMS if self.training else EVALUATION_TERMS
        return self._exponential(x, kernel, terms)[:, : self.out_channels] + self.bias[:, None, None]

    def _exponential(self, x: Tensor, kernel: Tensor, terms: int) -> Tensor:
        """Sum of the series; a subclass may compute it in another way."""
        return exponential(x, kernel, terms)


class LeanSOCConv2d(SOCConv2d):
    """The same function; the series in Horner's form, and two of the four matrices, because L is skew.

    With A and B the first and the third matrix, and F the reversal of the taps of each channel, the second is `−(F A F)ᵀ` and
    the fourth `−(B F)ᵀ`. So if (u, v) are vectors of the second, (F v, −F u) are vectors of A; likewise the fourth and B. The
    norms are those of 2 L, which saves a division.
    """

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """The left and right vectors of the four matrices, after one step of power iteration in training mode."""
        if not self.training:
            return super().advance(image_size)
        pairs = self._vectors()
        with torch.no_grad():
            matrices = _independent(_twice_skew(self.weight))
            for matrix, (left, right), (other_left, other_right) in zip(matrices, pairs[0::2], pairs[1::2]):
                left.copy_(functional.normalize(torch.mv(matrix, right), dim=0))
                right.copy_(functional.normalize(torch.mv(matrix.T, left), dim=0))
                turned = functional.normalize(torch.mv(matrix.T, self._reversed(other_right)), dim=0)
                other_left.copy_(-self._reversed(turned))
                other_right.copy_(self._reversed(functional.normalize(torch.mv(matrix, turned), dim=0)))
        return tuple(vector.clone() for pair in pairs for vector in pair)

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        kernel = _twice_skew(self.weight)
        norms = []
        for first, matrix in zip((0, 4), _independent(kernel)):
            left, right, other_left, other_right = advanced[first : first + 4]
            lefts = torch.stack((left, self._reversed(other_right)))
            rights = torch.stack((right, -self._reversed(other_left)))
            norms.append((torch.mm(lefts, matrix) * rights).sum(1))
        scale = 1.0 if self.kernel_size == 1 else SCALE
        return (kernel * (scale / torch.cat(norms).amin()),)

    def _reversed(self, vector: Tensor) -> Tensor:
        """A vector (c, taps) in one dimension, with the taps of each channel in the other order."""
        return vector.view(self.weight.shape[0], -1).flip(1).flatten()

    def _exponential(self, x: Tensor, kernel: Tensor, terms: int) -> Tensor:
        return series.exponential(x, kernel, terms, self.training, self.is_on_cpu(x))


def _twice_skew(kernel: Tensor) -> Tensor:
    """`K − flip(Kᵀ)`, twice the skew kernel."""
    return kernel - kernel.transpose(0, 1).flip(2, 3)


def _independent(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the third of the four matrices."""
    channels, size = kernel.shape[1], kernel.shape[-1]
    return kernel.permute(0, 2, 1, 3).reshape(channels * size, channels * size), kernel.reshape(channels, channels * size**2)


TRAINED_BY_KERNEL = ("tf32x3",)
"""Precisions in which a training pass runs by the kernel: predicted, not measured (`reports/notes/kernels.md`). In the others
its programs have a lower ceiling than cuDNN's convolutions, so the series of `lean` around those is taken."""


class TritonSOCConv2d(WithKernel, SOCConv2d):
    """The same function; one kernel computes a term of the series and adds it, in one pass over the image.

    In training the kernel is used in `TRAINED_BY_KERNEL` alone, and elsewhere the series of `lean`.
    """

    takes_images = True

    def _exponential(self, x: Tensor, kernel: Tensor, terms: int) -> Tensor:
        if self.fallback:
            return super()._exponential(x, kernel, terms)
        if self.training and self.precision not in TRAINED_BY_KERNEL:
            return series.exponential(x, kernel, terms, True, self.is_on_cpu(x))
        from lipbench_kernels.soc_series import soc_series

        return soc_series(x, kernel, terms, self.precision)


EXACT = Complexity(
    Cost(C * t1, M * t1, 2 * C * t1),
    # The norms are linear in the kernel: their gradients are outer products of vectors, one multiplication per element.
    Cost(8 * P * t2 + 4 * P + 2 * c * k + c + c * k**2, 2 * P + 4 * c * k + 2 * c + 2 * c * k**2 + 5, C * 0),
)
EXACT_LEAN = Complexity(EXACT.input, Cost(4 * P * (2 * t2 + 1), 2 * P + 4 * c * k + 2 * c + 2 * c * k**2 + 7, 4 * P))

METHOD = Method(
    name="soc",
    title="SOC",
    source="Singla & Feizi, ICML 2021, arXiv 2105.11417",
    implementations={
        "paper": Implementation(SOCConv2d, EXACT, tail=C),
        "lean": Implementation(LeanSOCConv2d, EXACT_LEAN, tail=C),
        "triton": Implementation(TritonSOCConv2d, needs="triton"),
    },
    published=Complexity(Cost(C * t1, M * t1), Cost(c**2 * k**2 * t2, P)),
    published_operations=("CONVs", "F4"),
    iterations={"t1": TRAINING_TERMS, "t2": 1},
    advance=Cost(8 * P * t2, 4 * c * k + 2 * c + 2 * c * k**2),
    evaluation_iterations={"t1": EVALUATION_TERMS, "t2": 0},
    orthogonal=True,
)
