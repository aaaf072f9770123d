"""CPL: convex potential layers, a residual step along the gradient of a convex function.

Source: Meunier, Delattre, Araujo & Allauzen, "A Dynamical System Perspective for Lipschitz Neural Networks", ICML 2022,
arXiv 2110.12690.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.base import LipschitzConv2d, Method
from lipbench.theory import C, Complexity, Cost, M, P, c, k, s

EPSILON = 1e-6
LANCZOS_STEPS = 150
SQUARINGS = 40


class CPLConv2d(LipschitzConv2d):
    """`y = x − 2/(σ² + 1e-6) · Kᵀ relu(K ∗ x + bias)`, zero padding, σ the spectral norm of the convolution (arXiv 2110.12690).

    Training takes one step of power iteration a forward pass, from the buffer `u` (1, c, s, s). Evaluation needs a converged
    σ: the published 100 power iterations fall short of it by up to 3 %, so by default it takes 150 Lanczos steps, which
    converge. `eval_iterations=100` gives the published behaviour. Raises `UnsupportedError` for unequal channels.
    """

    u: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, image_size: int, eval_iterations: int | None = None
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        if in_channels != out_channels:
            raise errors.unequal_channels("CPL", in_channels, out_channels)
        self.eval_iterations = eval_iterations
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.xavier_normal_(self.weight)
        bound = 1 / math.sqrt(in_channels * kernel_size**2)
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        self.register_buffer("u", torch.randn(1, in_channels, image_size, image_size))

    def _convolve(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, padding=self.kernel_size // 2)

    def _convolve_transposed(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.weight, padding=self.kernel_size // 2)

    def _start_vector(self, image_size: int) -> Tensor:
        if image_size == self.u.shape[-1]:
            return self.u
        return torch.randn(1, self.in_channels, image_size, image_size, dtype=self.u.dtype, device=self.u.device)

    def _power_iteration(self, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """u and v (1, c, s, s) after some steps, at least 1; neither is differentiated."""
        with torch.no_grad():
            for _ in range(steps):
                v = self._convolve(u)
                v = v / (torch.linalg.vector_norm(v) + EPSILON)
                u = self._convolve_transposed(v)
                u = u / (torch.linalg.vector_norm(u) + EPSILON)
        return u, v

    def _lanczos(self, u: Tensor) -> Tensor:
        """The leading right singular vector (1, c, s, s) by Lanczos steps on `KᵀK`; not differentiated.

        Every step is the pair of convolutions of a power iteration, and nothing branches on data.
        """
        with torch.no_grad():
            steps = min(LANCZOS_STEPS, u.numel())
            basis = torch.zeros(steps, u.numel(), dtype=u.dtype, device=u.device)
            images = torch.zeros_like(basis)
            direction = u.flatten()
            for step in range(steps):
                # Where the space is exhausted, what is left is rounding error: normalised and projected anew, it becomes
                # one more orthogonal direction instead of a second copy of an old one.
                for _ in range(3):
                    direction = direction - basis[:step].T @ (basis[:step] @ direction)
                    direction = direction / (torch.linalg.vector_norm(direction) + torch.finfo(u.dtype).tiny)
                basis[step] = direction
                images[step] = self._convolve_transposed(self._convolve(direction.view_as(u))).flatten()
                direction = images[step]
            leading = (_leading_eigenvector(basis @ images.T) @ basis).view_as(u)
            normalised: Tensor = leading / (torch.linalg.vector_norm(leading) + EPSILON)
        return normalised

    def spectral_norm(self, image_size: int) -> Tensor:
        """σ of the convolution on images of `image_size`, a scalar; steps the buffer in training mode."""
        start = self._start_vector(image_size)
        if self.training:
            u, v = self._power_iteration(start, 1)
            if start is self.u:
                with torch.no_grad():
                    self.u.copy_(u)
        elif self.eval_iterations is None:
            u, v = self._power_iteration(self._lanczos(start), 1)
        else:
            u, v = self._power_iteration(start, self.eval_iterations)
        return (v * self._convolve(u)).sum()

    def transform_parameters(self, image_size: int) -> tuple[Tensor, ...]:
        return self.weight, 2 / (self.spectral_norm(image_size).square() + EPSILON)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        _, step = effective
        activation = functional.relu(self._convolve(x) + self.bias[:, None, None])
        return x - step * self._convolve_transposed(activation)

    def branch(self, x: Tensor, *effective: Tensor) -> Tensor:
        _, step = effective
        return step * self._convolve_transposed(self._convolve(x))


class PublishedCPLConv2d(CPLConv2d):
    """CPL with the 100 power iterations that are published for evaluation: not 1-Lipschitz, as `lipbench verify` shows."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size, eval_iterations=100)


def _leading_eigenvector(symmetric: Tensor) -> Tensor:
    """Of a small positive semidefinite matrix (n, n) → (n,), up to sign, by squaring: eigh() would wait for the device."""
    power = symmetric
    for _ in range(SQUARINGS):
        power = power / (torch.linalg.vector_norm(power) + torch.finfo(power.dtype).tiny)
        power = power @ power
    # By now every column is a multiple of the eigenvector; the one with the largest diagonal is the most accurate.
    return power.index_select(1, power.diagonal().argmax()[None])[:, 0]


METHOD = Method(
    name="cpl",
    title="CPL",
    source="Meunier et al., ICML 2022, arXiv 2110.12690",
    implementations={"paper": CPLConv2d},
    published=Complexity(Cost(2 * C, 3 * M), Cost(s**2 * c**2 * k**2, P + s**2 * c)),
    published_operations=("CONVs & ACT", "power method"),
    exact=Complexity(
        Cost(2 * C, 3 * M, 4 * C),
        # The vectors are not differentiated, so of three convolutions only the last has a gradient, and only of its kernel.
        Cost(3 * s**2 * c**2 * k**2, P + 2 * s**2 * c + 3, s**2 * c**2 * k**2),
    ),
    linear=False,
)
