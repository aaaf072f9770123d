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
from lipbench.layers.base import Implementation, LipschitzConv2d, Method
from lipbench.layers.lean.residual import scaled_residual
from lipbench.theory import C, Complexity, Cost, M, P, c, k, s

EPSILON = 1e-6
LANCZOS_STEPS = 150
SQUARINGS = {torch.float32: 19, torch.float64: 40}
"""number of squarings of the small matrix, by dtype: 2 to this power is below 1 ÷ precision"""


class CPLConv2d(LipschitzConv2d):
    """`y = x − 2/(σ² + 1e-6) · Kᵀ relu(K ∗ x + bias)`, zero padding, σ the spectral norm of the convolution (arXiv 2110.12690).

    In training, each forward pass takes one step of power iteration, from the buffer `u` (1, c, s, s). Evaluation needs a
    converged σ. The published 100 power iterations underestimate it by up to 3 %, so the default is 150 Lanczos steps, which
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

    def _convolve(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.conv2d(x, self.weight, bias, padding=self.kernel_size // 2)

    def _convolve_transposed(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.weight, padding=self.kernel_size // 2)

    def _start_vector(self, image_size: int) -> Tensor:
        if image_size == self.u.shape[-1]:
            return self.u
        return torch.randn(1, self.in_channels, image_size, image_size, dtype=self.u.dtype, device=self.u.device)

    def _power_iteration(self, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """u and v (1, c, s, s) after the given number of steps, at least 1; neither is differentiated."""
        with torch.no_grad():
            for _ in range(steps):
                v = self._convolve(u)
                v = v / (torch.linalg.vector_norm(v) + EPSILON)
                u = self._convolve_transposed(v)
                u = u / (torch.linalg.vector_norm(u) + EPSILON)
        return u, v

    def _lanczos(self, u: Tensor) -> Tensor:
        """The leading right singular vector (1, c, s, s) by Lanczos steps on `KᵀK`; not differentiated.

        Every step is the pair of convolutions of a power iteration, and nothing branches on data. A direction is made
        orthogonal only to the two before it. Rounding then adds copies of converged eigenvalues, which do not harm powers of
        `KᵀK` applied to u (Druskin & Knizhnerman, USSR Computational Mathematics and Mathematical Physics 29, 1989).
        """
        with torch.no_grad():
            basis: list[Tensor] = []
            diagonal: list[Tensor] = []
            beside: list[Tensor] = []
            direction = u.flatten()
            for step in range(min(LANCZOS_STEPS, u.numel())):
                length = torch.linalg.vector_norm(direction)
                basis.append(direction / (length + torch.finfo(u.dtype).tiny))
                direction = self._convolve_transposed(self._convolve(basis[-1].view_as(u))).flatten()
                if step:
                    beside.append(length)
                    direction = direction - length * basis[-2]
                diagonal.append(torch.dot(basis[-1], direction))
                direction = direction - diagonal[-1] * basis[-1]
            leading = (_high_power(diagonal, beside) @ torch.stack(basis)).view_as(u)
            normalised: Tensor = leading / (torch.linalg.vector_norm(leading) + EPSILON)
        return normalised

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """The leading singular vectors u and v (1, c, s, s). In training mode, this updates the buffer `u`."""
        start = self._start_vector(image_size)
        if self.training:
            u, v = self._power_iteration(start, 1)
            if start is self.u:
                with torch.no_grad():
                    self.u.copy_(u)
        elif self.eval_iterations is None:
            u, v = self._power_iteration(self._lanczos(start), 1)  # the step corrects the rounding of the small matrix
        else:
            u, v = self._power_iteration(start, self.eval_iterations)
        return u, v

    def spectral_norm(self, image_size: int) -> Tensor:
        """σ of the convolution on images of `image_size`, a scalar. In training mode, this updates the buffer `u`."""
        return self._norm(*self.advance(image_size))

    def _norm(self, u: Tensor, v: Tensor) -> Tensor:
        return (v * self._convolve(u)).sum()

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return self.weight, 2 / (self._norm(*advanced).square() + EPSILON)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        _, step = effective
        return x - step * self._convolve_transposed(functional.relu(self._convolve(x, self.bias)))

    def branch(self, x: Tensor, *effective: Tensor) -> Tensor:
        _, step = effective
        return step * self._convolve_transposed(self._convolve(x))


class LeanCPLConv2d(CPLConv2d):
    """The same function; the block keeps its input and its activation alone, and scales no image in a pass of its own."""

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        kernel, step = effective
        return scaled_residual(x, kernel, self.bias, -step, self.training, self.is_on_cpu(x))


class PublishedCPLConv2d(CPLConv2d):
    """CPL with the published 100 power iterations in evaluation: not 1-Lipschitz, as `lipbench verify` shows."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size, eval_iterations=100)


def _high_power(diagonal: list[Tensor], beside: list[Tensor]) -> Tensor:
    """First column (n,), not normalised, of a high power of a tridiagonal matrix; by squaring, as eigh() waits for the device.

    Rounding adds copies of an eigenvalue that differ by about the precision, and the power must keep them all. It may keep
    other eigenvalues that are as near to the largest, since they give the same result.
    """
    dtype = diagonal[0].dtype
    matrix = torch.diag(torch.stack(diagonal).double())
    if beside:
        offset = torch.stack(beside).double()
        matrix = matrix + torch.diag(offset, 1) + torch.diag(offset, -1)
    for _ in range(SQUARINGS.get(dtype, SQUARINGS[torch.float32])):
        matrix = matrix / (torch.linalg.vector_norm(matrix) + torch.finfo(matrix.dtype).tiny)
        matrix = matrix @ matrix
    return matrix[:, 0].to(dtype)


EXACT = Complexity(
    Cost(2 * C, 3 * M, 4 * C),
    # The vectors are not differentiated: only the last of three convolutions has a gradient, with respect to its kernel alone.
    Cost(3 * s**2 * c**2 * k**2, P + 2 * s**2 * c + 3, s**2 * c**2 * k**2),
)
# The gradient of the step is a product of images. The bias is kept, so that second derivatives are refused for it too.
EXACT_LEAN = Complexity(Cost(2 * C, 2 * M, 4 * C + M), EXACT.parameters + Cost(C * 0, c, C * 0))

METHOD = Method(
    name="cpl",
    title="CPL",
    source="Meunier et al., ICML 2022, arXiv 2110.12690",
    implementations={"paper": Implementation(CPLConv2d, EXACT), "lean": Implementation(LeanCPLConv2d, EXACT_LEAN, tail=C)},
    published=Complexity(Cost(2 * C, 3 * M), Cost(s**2 * c**2 * k**2, P + s**2 * c)),
    published_operations=("CONVs & ACT", "power method"),
    advance=Cost(2 * s**2 * c**2 * k**2, 2 * s**2 * c),
    linear=False,
)
