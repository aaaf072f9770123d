"""Lipschitz constants of affine maps, by their singular values, and the variance within a network.

The maps are callables: they take and return float64 tensors whose first dimension is the batch, and treat images independently.
A map that computes in float32 inside needs a larger `rounding`, or its `Noise`, or it would count as non-linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipbench.meters.noise import Map, Noise, normal
from lipbench.meters.search import image_size
from lipbench.quantities import Bound

TOLERANCE = 1e-4
"""A constant that exceeds the claimed one by more than this, relatively, is a violation."""
DENSE_LIMIT = 1024
"""Largest number of inputs of a map whose whole Jacobian is computed."""
FOURIER_LIMIT = 2e8
"""Largest frequencies × channels³ for which all Fourier blocks are decomposed; this takes some seconds on one core."""
STEPS = 150
SETTLED = 1e-8
"""Residual at which Lanczos steps usually end."""
CONVERGED = 1e-5
"""Largest residual of a Lanczos result that counts as exact: the relative error of the singular value is at most half of it."""
ROUNDING = 1e-9
"""Relative difference between two float64 results of the same map."""
SINGLE_ROUNDING = 1e-4
"""Relative difference between two float32 results of the same map."""
AFFINE_SCALES = (1.0, 1e-3, 1e-2, 1e-1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
"""Root mean squares of the inputs at which a map is tested."""
ANOTHER = 1.37
"""Ratio of two amplitudes at which numbers are rounded independently."""
WIDE = 0.1
"""Relative uncertainty from which on singular values are only a lower bound."""


def violates(bound: Bound, claimed: float = 1.0) -> bool:
    """Whether a bound shows that a map is not `claimed`-Lipschitz. An upper bound cannot show that."""
    least = bound.largest - (bound.uncertainty if bound.kind == "exact" else 0.0)
    return bound.kind != "upper bound" and least > claimed * (1 + TOLERANCE)


def proves(bound: Bound, claimed: float = 1.0) -> bool:
    """Whether a bound proves that a map is `claimed`-Lipschitz. A lower bound cannot prove that."""
    return bound.kind != "lower bound" and bound.largest + bound.uncertainty <= claimed * (1 + TOLERANCE)


# ------------------------------------------------------------------------------------------------------------ kind of map


@torch.no_grad()
def is_affine(apply: Map, like: Tensor, rounding: float = ROUNDING, noise: Noise | None = None) -> bool:
    """Whether a map on tensors shaped `like` (1, …) is affine, tested at random points of several norms.

    A map whose images influence each other is not. Scales at which the map raises or gives infinite outputs are left out, but
    not the first of them.
    """
    for scale in AFFINE_SCALES:
        x, y = scale * normal(like, 1), scale * normal(like, 2)
        try:
            origin, at_x, at_y, image = apply(torch.cat((torch.zeros_like(x), x, y, x + y))).unsqueeze(1)
        except Exception:  # a map may refuse large numbers in any way
            if scale == 1:
                raise
            continue
        if scale != 1 and not bool(torch.isfinite(image).all()):
            continue
        allowed = 0.0 if noise is None else float(noise.errors(x.new_tensor([1.5 * scale])))
        if not _alike(image, at_x + at_y - origin, at_x, rounding, allowed):
            return False
        if scale == 1 and noise is None and not _alike(apply(x), at_x, at_x, rounding):
            return False
    return True


@torch.no_grad()
def is_circular(apply: Map, like: Tensor, rounding: float = ROUNDING, noise: Noise | None = None) -> bool:
    """Whether an affine map on square images (1, c, s, s) commutes with circular shifts and keeps the image's size."""
    if like.dim() != 4 or like.shape[-1] != like.shape[-2]:
        return False
    scale = 1.0 if noise is None else noise.amplitude()
    x = scale * normal(like, 1)
    image = apply(x)
    if image.shape[2:] != x.shape[2:]:
        return False
    allowed = 0.0 if noise is None else float(noise.errors(x.new_tensor([scale])))
    return all(_alike(apply(x.roll(1, axis)), image.roll(1, axis), image, rounding, allowed) for axis in (2, 3))


def _alike(one: Tensor, other: Tensor, scale: Tensor, rounding: float, allowed: float = 0.0) -> bool:
    return bool((one - other).norm() <= rounding * (scale.norm() + 1e-300) + allowed)


# ----------------------------------------------------------------------------------------------------------- affine maps


def exact_singular_values(apply: Map, like: Tensor, rounding: float = ROUNDING, noise: Noise | None = None) -> Bound | None:
    """Largest and smallest of all singular values of an affine map's linear part; None where there are too many to compute.

    They come from the Fourier blocks of a circular map, or else from the Jacobian, in float64. `like` is (1, …). With `noise`,
    they have an uncertainty: σ changes by at most the norm of the error of the matrix (Weyl).
    """
    if is_circular(apply, like, rounding, noise):
        size = like.shape[-1]
        if size * (size // 2 + 1) * like.shape[1] ** 3 <= FOURIER_LIMIT:
            return _bound(_fourier_blocks, "fourier", apply, like, rounding, noise)
    if like.numel() > DENSE_LIMIT:
        return None
    return _bound(_jacobian, "dense", apply, like, rounding, noise)


@torch.no_grad()
def _fourier_blocks(apply: Map, like: Tensor, amplitude: float) -> Tensor:
    """Every Fourier block, (frequencies in the half plane, o, i), from an impulse in each channel."""
    channels = like.shape[1]
    impulses = like.new_zeros(channels, *like.shape[1:])
    impulses[:, :, 0, 0] = amplitude * torch.eye(channels, dtype=like.dtype, device=like.device)
    responses = (apply(impulses) - apply(torch.zeros_like(like))) / amplitude
    blocks: Tensor = torch.fft.rfft2(responses).permute(2, 3, 1, 0).flatten(0, 1)
    return blocks


@torch.no_grad()
def _jacobian(apply: Map, like: Tensor, amplitude: float) -> Tensor:
    """The transposed Jacobian, (inputs, outputs)."""
    size = like.numel()
    basis = amplitude * torch.eye(size, dtype=like.dtype, device=like.device).view(size, *like.shape[1:])
    return ((apply(basis) - apply(torch.zeros_like(like))) / amplitude).reshape(size, -1)


def _singular_values(matrices: Tensor) -> Tensor:
    """Singular values, computed on the CPU: a GPU processes matrices over 32 × 32 one by one, and each takes much longer."""
    values: Tensor = torch.linalg.svdvals(matrices.cpu())
    return values


def _bound(matrices: Callable[[Map, Tensor, float], Tensor], how: str, apply: Map, like: Tensor, rounding: float,
           noise: Noise | None) -> Bound:  # fmt: skip
    amplitude = 1.0 if noise is None else noise.amplitude()
    found = matrices(apply, like, amplitude)
    values = _singular_values(found)
    bound = Bound(float(values.max()), float(values.min()), "exact", how, image_size(like))
    if noise is None:
        missed = _missed(found, how, apply, like)
        return bound if missed <= rounding * bound.largest else uncertain(bound, math.sqrt(like.numel()) * missed)
    change = float(_singular_values(found - matrices(apply, like, ANOTHER * amplitude)).max())
    unseen = 0.0 if noise.is_explained else float(noise.errors(like.new_tensor([amplitude]))) / amplitude
    error = max(3 * change, unseen)
    return uncertain(bound, error + noise.drift * bound.largest)


@torch.no_grad()
def _missed(matrices: Tensor, how: str, apply: Map, like: Tensor) -> float:
    """‖f(x) − f(0) − A x‖ ÷ ‖x‖ at a random x: the matrix is that of unit vectors, on which a map may compute differently."""
    x = normal(like, 4)
    image = apply(x) - apply(torch.zeros_like(x))
    if how == "dense":
        expected = x.flatten() @ matrices
    else:
        size = like.shape[-1]
        waves = torch.fft.rfft2(x[0]).flatten(1).T[..., None]
        expected = torch.fft.irfft2((matrices @ waves)[..., 0].T.unflatten(1, (size, -1)), s=(size, size)).flatten()
    return float((image.flatten() - expected).norm() / x.norm())


def uncertain(bound: Bound, error: float) -> Bound:
    """A bound with an uncertainty; only a lower bound, and no smallest singular value, where that is too large."""
    if error > WIDE * bound.largest:
        return replace(bound, largest=max(0.0, bound.largest - error), smallest=None, kind="lower bound", uncertainty=2 * error)
    return replace(bound, uncertainty=error)


def extreme_singular_values(
    apply: Map,
    like: Tensor,
    both: bool = True,
    settled: float = SETTLED,
    rounding: float = ROUNDING,
    noise: Noise | None = None,
) -> Bound | None:
    """Both ends of the spectrum of an affine map's linear part, by at most `STEPS` Lanczos steps on `JᵀJ`.

    Both come from one Krylov space with full reorthogonalisation. The results are ‖J v‖ of the unit vectors found, computed by
    the map and not by its gradient, so that `largest` exceeds the true value by no more than its uncertainty. The smallest
    singular value is given only with `both`, and only if it converged. The steps end at a residual of `settled`. None where the
    map has no gradient, or a wrong one: ⟨v, JᵀJ v⟩ must be ‖J v‖².
    """
    scale = 1.0 if noise is None else noise.amplitude() * math.sqrt(like.numel())
    with torch.no_grad():
        offset = apply(torch.zeros_like(like))

    def linear(vector: Tensor) -> Tensor:
        return (apply(scale * vector.view_as(like)) - offset) / scale

    start = normal(like, 3).flatten()
    most = min(STEPS, like.numel())
    basis = start.new_empty(most, start.numel())
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        known = basis[: len(diagonal) + 1]
        image, square = _normal_operator(linear, known[-1])
        if image is None:
            return None
        diagonal.append(float(known[-1] @ image))
        if not abs(diagonal[-1] - square) <= rounding * max(square, *diagonal):
            return None
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        ritz, vectors = _small_eigenproblem(diagonal, beside)
        top = max(float(ritz[-1]), 1e-300)
        residual = length * abs(float(vectors[-1, -1])) / top
        exhausted = length <= ROUNDING * top or len(known) >= most
        low_residual = length * abs(float(vectors[-1, 0])) / max(float(ritz[0]), 1e-300)
        if exhausted or (residual <= settled and (low_residual <= settled or not both)):
            break
        beside.append(length)
        basis[len(known)] = image / length
    largest, smallest = (_gain(linear, known.T @ vectors[:, end].to(like.device)) for end in (-1, 0))
    kind = "exact" if residual <= CONVERGED else "lower bound"
    smallest_found = smallest if both and low_residual <= CONVERGED else None
    found = Bound(largest, smallest_found, kind, "lanczos", image_size(like), residual)
    if noise is None:
        return found
    error = 2 * float(noise.errors(like.new_tensor([noise.amplitude()]))) / scale + noise.drift * largest
    if kind == "lower bound":
        return replace(found, largest=max(0.0, largest - error), uncertainty=error)
    return uncertain(found, error + residual * largest)


def _normal_operator(linear: Map, vector: Tensor) -> tuple[Tensor | None, float]:
    """`JᵀJ v` of a linear map, by one forward and one backward pass, and ‖J v‖²; None where the map has no gradient."""
    x = vector.detach().requires_grad_()
    with torch.enable_grad():
        y = linear(x)
    try:
        (gradient,) = torch.autograd.grad(y, x, y.detach())
    except Exception:  # a backward pass may raise anything
        return None, 0.0
    return gradient, float(y.detach().square().sum())


def _small_eigenproblem(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        edge = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(edge, 1) + torch.diag(edge, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


@torch.no_grad()
def _gain(linear: Map, vector: Tensor) -> float:
    return float(linear(vector).norm() / vector.norm())


# --------------------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Passed:
    """A part of a network, with the shape and variance of its input and the variance of its output."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    """shape of the input, batch first"""
    variance_in: float
    """variance of the input over the batch, summed over the features"""
    variance_out: float


@torch.no_grad()
def pass_through(network: nn.Module, parts: dict[str, nn.Module], x: Tensor) -> list[Passed]:
    """Run a network on a batch and record the variances before and after its parts, in order.

    The variance over a batch cannot grow in a 1-Lipschitz map: it is half the mean squared distance between images
    (arXiv 2311.16833, Appendix F).
    """
    passed: list[Passed] = []
    with _watched(parts, passed):
        network(x)
    return passed


@contextmanager
def _watched(parts: dict[str, nn.Module], passed: list[Passed]) -> Iterator[None]:
    def watch(name: str, module: nn.Module) -> Callable[..., None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            passed.append(Passed(name, module, tuple(inputs[0].shape), _variance(inputs[0]), _variance(output)))

        return note

    handles = [module.register_forward_hook(watch(name, module)) for name, module in parts.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _variance(batch: Tensor) -> float:
    return float(batch.flatten(1).var(dim=0, correction=0).sum())


def grows(passed: Passed) -> bool:
    """Whether the variance over the batch grew by more than the tolerance of a 1-Lipschitz map."""
    return not math.sqrt(passed.variance_out) <= (1 + TOLERANCE) * math.sqrt(passed.variance_in)
