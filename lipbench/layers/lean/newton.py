"""Inverse roots of Hermitian matrices in real arithmetic, for LOT's `lean` implementation.

A Hermitian matrix A + iB, A symmetric and B skew, has as many real numbers as the real matrix N = A + B, its *folded* form. It
keeps norms and inner products, and the folded form of a product is `N₁ A₂ + N₁ᵀ B₂` if that product is Hermitian: two real
products in place of four.

The gradient of a polynomial of a Hermitian matrix is its derivative in the direction of the incoming gradient, because that
derivative is self-adjoint. So the backward pass is the forward pass's recursion for tangents, and these are Hermitian too: four
real products for each of the forward pass's two, where autograd needs eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipbench.layers.base import without_autocast
from lipbench.layers.lean.derivatives import Gradients, first_alone


def halves(folded: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric and skew part of (f, n, n): real and imaginary part of the Hermitian matrices."""
    symmetric = torch.lerp(folded, folded.mT, 0.5)
    return symmetric, folded - symmetric


@dataclass(frozen=True)
class Blocks:
    """Complex matrices V (f, o, i) by parts, with the sums of parts that its products need."""

    real: Tensor
    imaginary: Tensor
    total: Tensor
    difference: Tensor

    @classmethod
    def of(cls, real: Tensor, imaginary: Tensor) -> Blocks:
        return cls(real, imaginary, real + imaginary, imaginary - real)

    def covariance(self) -> Tensor:
        """`V Vᴴ` in folded form (f, o, o): two real products."""
        return torch.bmm(self.total, self.real.mT).baddbmm_(self.difference, self.imaginary.mT)

    def times(self, folded: Tensor) -> tuple[Tensor, Tensor]:
        """Parts (f, o, i) of `H V` for Hermitian H in folded form (f, o, o): three real products."""
        symmetric, skew = halves(folded)
        both = torch.bmm(folded, self.real)
        return torch.baddbmm(both, skew, self.total, alpha=-1), torch.baddbmm(both, symmetric, self.difference)


def _stepped(folded: Tensor, symmetric: Tensor, skew: Tensor) -> Tensor:
    """`H T = 1.5 H − 0.5 H W` for H, W that commute; H in folded form, W by its halves."""
    product = torch.baddbmm(folded, folded, symmetric, beta=1.5, alpha=-0.5)
    return product.baddbmm_(folded.mT, skew, alpha=-0.5)


def _tangent(tangent: Tensor, w: tuple[Tensor, Tensor], h: tuple[Tensor, Tensor], w_tangent: Tensor) -> Tensor:
    """Tangent of `_stepped`, `1.5 dH − 0.5 (dH W + H dW)`: tangents in folded form, W and H by their halves."""
    product = _stepped(tangent, *w).baddbmm_(h[0], w_tangent, alpha=-0.5)
    return product.baddbmm_(h[1], w_tangent.mT, alpha=-0.5)


class _InverseRoot(torch.autograd.Function):
    """`y^(−1/2)` by Newton steps `T = (3 I − W)/2`, `Z ← Z T`, `W ← W T²` from W = y, Z = I; everything in folded form.

    W stands for Z Y of the coupled steps that `lot.inverse_root` takes, and tends to I like it.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, iterations: int) -> Tensor:
        root, kept = newton_steps(y, iterations)
        ctx.save_for_backward(*kept)
        return root

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        first, *kept = ctx.saved_tensors
        parts, w_tangent, z_tangent = halves(first), gradient, -0.5 * gradient
        with without_autocast(gradient.device.type):
            for between, w, z in zip(kept[0::3], kept[1::3], kept[2::3]):
                between_tangent = _tangent(w_tangent, parts, parts, w_tangent)
                w_tangent = _tangent(between_tangent, parts, halves(between), w_tangent)
                parts = halves(w)
                z_tangent = _tangent(z_tangent, parts, halves(z), w_tangent)
        return z_tangent, None


def newton_steps(y: Tensor, iterations: int) -> tuple[Tensor, list[Tensor]]:
    """The last Z, and what its gradient needs: y, and for each step but the first `W T`, W and the Z before it."""
    identity = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    w, z = y, 1.5 * identity - 0.5 * y
    parts, kept = halves(w), [y]
    for _ in range(iterations - 1):
        between = _stepped(w, *parts)
        w = _stepped(between, *parts)
        parts = halves(w)
        kept += [between, w, z]
        z = _stepped(z, *parts)
    return z, kept


def folded_inverse_root(y: Tensor, iterations: int, training: bool) -> Tensor:
    """`y^(−1/2)` in folded form, for Hermitian y in folded form (f, n, n), with norms up to 1: `lot.inverse_root`'s result.

    In training, its gradient is that of this module's docstring, and has no gradient or tangent of its own.
    """
    if not training:
        return newton_steps(y, iterations)[0]
    root: Tensor = _InverseRoot.apply(y, iterations)  # type: ignore[no-untyped-call]  # torch gives it no types
    return root
