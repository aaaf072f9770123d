"""ECO: explicitly constructed orthogonal convolutions, orthogonal matrices placed at the frequencies of a dilated kernel.

Source: Yu, Li, Cai & Li, "Constructing Orthogonal Convolutions in an Explicit Manner", ICLR 2022.
"""

from __future__ import annotations

import math

import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.base import Implementation, LipschitzConv2d, Method, refresh_loaded, refresh_steps
from lipbench.theory import C, Complexity, Cost, P, b, c, k, s, t1, t2

TRAINING_TERMS = 5
EVALUATION_TERMS = 10
REFRESH_ITERATIONS = 50
KERNEL_SIZES = (1, 3)
PLACEMENT = ((0, 1), (2, 3), (2, 4))
"""index of the matrix at each of the 3 × 3 frequencies, in the half plane of a real kernel

The whole plane is `[[0, 1, 1], [2, 3, 4], [2, 4, 3]]`: f and −f have the same real matrix.
"""


def skew_matrices(weight: Tensor) -> Tensor:
    """`(W − Wᵀ) / 2` for each matrix of (n, c, c)."""
    return (weight - weight.mT) / 2


def exponential(matrices: Tensor, terms: int) -> Tensor:
    """`Σ_{n=0..terms} Aⁿ / n!` for each matrix of (n, c, c)."""
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    total, term = identity + matrices, matrices
    for n in range(2, terms + 1):
        term = torch.bmm(term, matrices) / n
        total = total + term
    return total


class ECOConv2d(LipschitzConv2d):
    """`y = K ∗ x + bias`, K a 3 × 3 kernel with dilation ⌈s/3⌉, circular padding; its nine Fourier blocks are `exp(S/σ)`.

    `weight` (5, c, c), or (1, c, c) for k = 1: S is the skew part of each matrix and σ its largest singular value, from vectors
    that take one step of power iteration in every training forward pass. Call `refresh()` every 200 training steps. The
    exponential is a series of 5 terms in training, 10 in evaluation. The kernel is not centred, so it shifts the image by the
    dilation.

    The layer is orthogonal only if 3 divides s: otherwise the dilated kernel's frequencies are not those of the image, and the
    layer, as published, is not 1-Lipschitz. Raises `UnsupportedError` for kernel sizes other than 1 and 3, for unequal
    channels, and for one channel.
    """

    left: Tensor
    right: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        if kernel_size not in KERNEL_SIZES:
            raise errors.unknown_kernel("ECO", kernel_size, "1 or 3")
        if in_channels != out_channels:
            raise errors.unequal_channels("ECO", in_channels, out_channels)
        if out_channels == 1:
            raise errors.only_zero("ECO")
        channels, matrices = out_channels, 1 if kernel_size == 1 else 5
        bound = 1 / math.sqrt(channels)
        self.weight = nn.Parameter(torch.randn(matrices, channels, channels) * bound)
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
        self.register_buffer("left", functional.normalize(torch.randn(matrices, channels, 1), dim=1))
        self.register_buffer("right", functional.normalize(torch.randn(matrices, channels, 1), dim=1))
        self.register_load_state_dict_post_hook(refresh_loaded)  # type: ignore[no-untyped-call]  # torch types it nowhere
        self.refresh()

    @torch.no_grad()
    def _power_iteration(self, matrices: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Singular vectors (n, c, 1) after the given number of steps; they are also stored in the buffers."""
        left, right = self.left, self.right
        for _ in range(steps):
            left = functional.normalize(torch.bmm(matrices, right), dim=1)
            right = functional.normalize(torch.bmm(matrices.mT, left), dim=1)
        self.left.copy_(left)
        self.right.copy_(right)
        return left, right

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the power iterations to convergence on the present weights, by 50 steps outside any graph."""
        self._power_iteration(skew_matrices(self.weight), refresh_steps(self.weight, REFRESH_ITERATIONS))

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """The left and right vectors (n, c, 1), after one step of power iteration in training mode."""
        return self._power_iteration(skew_matrices(self.weight.detach()), 1) if self.training else (self.left, self.right)

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        left, right = advanced
        skew = skew_matrices(self.weight)
        norms = torch.bmm(left.mT, torch.bmm(skew, right))
        orthogonal = exponential(skew / norms, TRAINING_TERMS if self.training else EVALUATION_TERMS)
        if self.kernel_size == 1:
            return (orthogonal[0, :, :, None, None],)
        rows = [torch.stack([orthogonal[index] for index in row], dim=-1) for row in PLACEMENT]
        return (torch.fft.irfft2(torch.stack(rows, dim=-2), s=(3, 3)),)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        (kernel,) = effective
        if self.kernel_size == 1:
            return functional.conv2d(x, kernel, self.bias)
        dilation = -(-x.shape[-1] // 3)
        padded = functional.pad(x, (dilation,) * 4, mode="circular")
        return functional.conv2d(padded, kernel, self.bias, dilation=dilation)


_MATRICES = sympy.Piecewise((5, k > 1), (1, True))
_FFT = sympy.Piecewise((sympy.Rational(45, 4) * sympy.log(9, 2), k > 1), (0, True))
_PADDED = b * c * (s + (k - 1) * sympy.ceiling(s / 3)) ** 2
"""elements kept of the input, which is circularly padded by the dilation"""

EXACT = Complexity(
    Cost(C, _PADDED, 2 * C),
    Cost(
        _MATRICES * (c**3 * (t1 - 1) + c**2 * (2 * t2 + 1) + c) + c**2 * _FFT,
        _MATRICES * (c**2 * t1 + 2 * c + 1) + P,
        _MATRICES * (2 * c**3 * (t1 - 1) + c**2 + c) + c**2 * _FFT,
    ),
)

METHOD = Method(
    name="eco",
    title="ECO",
    source="Yu et al., ICLR 2022",
    implementations={"paper": Implementation(ECOConv2d, EXACT, tail=C)},
    published=None,
    published_operations=("", ""),
    iterations={"t1": TRAINING_TERMS, "t2": 1},
    evaluation_iterations={"t1": EVALUATION_TERMS, "t2": 0},
    advance=Cost(_MATRICES * 2 * c**2 * t2, _MATRICES * 2 * c),
    orthogonal=True,
)
