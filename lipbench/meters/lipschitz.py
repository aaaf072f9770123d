"""Lipschitz constants: singular values of affine maps, lower bounds for all other maps, and the variance within a network.

The maps are callables: they take and return float64 tensors whose first dimension is the batch, and treat images independently.
A map that computes in float32 inside needs a larger `rounding`, or it would count as non-linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.quantities import Bound

Map = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
"""A constant above 1 by more than this is a violation."""
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
POINTS, POWER_STEPS, ASCENT_STEPS, ASCENT_RATE = 8, 20, 60, 0.05


def violates(bound: Bound) -> bool:
    """Whether a bound shows that a map is not 1-Lipschitz. An upper bound cannot show that."""
    return bound.kind != "upper bound" and not bound.largest <= 1 + TOLERANCE


# ------------------------------------------------------------------------------------------------------------ kind of map


@torch.no_grad()
def is_affine(apply: Map, like: Tensor, rounding: float = ROUNDING) -> bool:
    """Whether a map on tensors shaped `like` (1, …) is affine, tested at random points of several norms."""
    for scale in (1e-2, 1.0, 1e2):
        x, y = scale * _normal(like, 1), scale * _normal(like, 2)
        origin = apply(torch.zeros_like(x))
        image = apply(x + y)
        expected = apply(x) + apply(y) - origin
        if not _alike(image, expected, apply(x), rounding):
            return False
    return True


@torch.no_grad()
def is_circular(apply: Map, like: Tensor, rounding: float = ROUNDING) -> bool:
    """Whether an affine map on square images (1, c, s, s) commutes with circular shifts and keeps the image's size."""
    if like.dim() != 4 or like.shape[-1] != like.shape[-2]:
        return False
    x = _normal(like, 1)
    image = apply(x)
    if image.shape[2:] != x.shape[2:]:
        return False
    return all(_alike(apply(x.roll(1, axis)), image.roll(1, axis), image, rounding) for axis in (2, 3))


def _alike(one: Tensor, other: Tensor, scale: Tensor, rounding: float) -> bool:
    return bool((one - other).norm() <= rounding * (scale.norm() + 1e-300))


def _normal(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


# ----------------------------------------------------------------------------------------------------------- affine maps


def exact_singular_values(apply: Map, like: Tensor, rounding: float = ROUNDING) -> Bound | None:
    """Largest and smallest of all singular values of an affine map's linear part; None where there are too many to compute.

    They come from the Fourier blocks of a circular map, or else from the Jacobian, in float64. `like` is (1, …).
    """
    if is_circular(apply, like, rounding):
        size = like.shape[-1]
        if size * (size // 2 + 1) * like.shape[1] ** 3 <= FOURIER_LIMIT:
            return _bound(_fourier_values(apply, like), "fourier", like)
    if like.numel() > DENSE_LIMIT:
        return None
    return _bound(_dense_values(apply, like), "dense", like)


@torch.no_grad()
def _fourier_values(apply: Map, like: Tensor) -> Tensor:
    """Singular values of every Fourier block, (frequencies in the half plane, min(o, i)), from an impulse in each channel."""
    channels = like.shape[1]
    impulses = like.new_zeros(channels, *like.shape[1:])
    impulses[:, :, 0, 0] = torch.eye(channels, dtype=like.dtype, device=like.device)
    responses = apply(impulses) - apply(torch.zeros_like(like))
    values: Tensor = _singular_values(torch.fft.rfft2(responses).permute(2, 3, 1, 0).flatten(0, 1))
    return values


@torch.no_grad()
def _dense_values(apply: Map, like: Tensor) -> Tensor:
    size = like.numel()
    basis = torch.eye(size, dtype=like.dtype, device=like.device).view(size, *like.shape[1:])
    values: Tensor = _singular_values((apply(basis) - apply(torch.zeros_like(like))).reshape(size, -1))
    return values


def _singular_values(matrices: Tensor) -> Tensor:
    """Singular values, computed on the CPU: a GPU processes matrices over 32 × 32 one by one, and each takes much longer."""
    values: Tensor = torch.linalg.svdvals(matrices.cpu())
    return values


def _bound(values: Tensor, how: str, like: Tensor) -> Bound:
    return Bound(float(values.max()), float(values.min()), "exact", how, image_size(like))


def image_size(like: Tensor) -> int:
    """Image size of a batch of images; 1 for a batch of features."""
    return int(like.shape[-1]) if like.dim() == 4 else 1


def extreme_singular_values(apply: Map, like: Tensor, both: bool = True, settled: float = SETTLED) -> Bound:
    """Both ends of the spectrum of an affine, differentiable map's linear part, by at most `STEPS` Lanczos steps on `JᵀJ`.

    Both come from one Krylov space with full reorthogonalisation. The results are ‖J v‖ of the unit vectors found, computed by
    the map and not by its gradient, so that `largest` never exceeds the true value. The smallest singular value is given only
    with `both`, and only if it converged. The steps end at a residual of `settled`.
    """
    with torch.no_grad():
        offset = apply(torch.zeros_like(like))
    start = _normal(like, 3).flatten()
    most = min(STEPS, like.numel())
    basis = start.new_empty(most, start.numel())
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        known = basis[: len(diagonal) + 1]
        image = _normal_operator(apply, offset, known[-1].view_as(like)).flatten()
        diagonal.append(float(known[-1] @ image))
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
    largest, smallest = (_gain(apply, offset, (known.T @ vectors[:, end].to(like.device)).view_as(like)) for end in (-1, 0))
    return Bound(
        largest,
        smallest if both and low_residual <= CONVERGED else None,
        "exact" if residual <= CONVERGED else "lower bound",
        "lanczos",
        image_size(like),
        residual,
    )


def _normal_operator(apply: Map, offset: Tensor, vector: Tensor) -> Tensor:
    """`JᵀJ v` of the linear part, by one forward and one backward pass."""
    x = vector.detach().requires_grad_()
    with torch.enable_grad():
        y = apply(x)
    (gradient,) = torch.autograd.grad(y, x, (y - offset).detach())
    return gradient


def _small_eigenproblem(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        edge = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(edge, 1) + torch.diag(edge, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


@torch.no_grad()
def _gain(apply: Map, offset: Tensor, vector: Tensor) -> float:
    return float((apply(vector) - offset).norm() / vector.norm())


# ------------------------------------------------------------------------------------------------------------- other maps


def lower_bound(apply: Map, like: Tensor) -> Bound:
    """A lower bound of the Lipschitz constant of a map that is not affine: the largest ratio found.

    Power iteration finds the Jacobian's norm at random points. Gradient ascent then maximises ‖f(x) − f(y)‖ ÷ ‖x − y‖, from
    pairs of points at small and large distances along the strongest directions.
    """
    scales = torch.logspace(-1, 1, POINTS).tolist()
    x = torch.cat([scale * _normal(like, seed) for seed, scale in enumerate(scales)])
    direction = _strongest_directions(apply, x)
    with torch.no_grad():
        found = _ratios(apply, x, x + 1e-4 * direction).max()
    distances = torch.logspace(-2, 1, POINTS, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.dim() - 1))
    pair = torch.stack((x, x + distances * direction)).requires_grad_()
    optimizer = torch.optim.Adam([pair], lr=ASCENT_RATE)
    for _ in range(ASCENT_STEPS):
        optimizer.zero_grad()
        ratios = _ratios(apply, pair[0], pair[1])
        found = torch.maximum(found, ratios.detach().nan_to_num(0.0).max())
        (-ratios.log().sum()).backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        optimizer.step()
    return Bound(float(found), None, "lower bound", "ascent", image_size(like))


def _strongest_directions(apply: Map, x: Tensor) -> Tensor:
    """Unit vectors (n, …) that the Jacobian stretches most, one for each point, by power iteration."""
    direction = _unit(torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device))
    for _ in range(POWER_STEPS):
        step = 1e-6
        with torch.no_grad():
            forward = (apply(x + step * direction) - apply(x - step * direction)) / (2 * step)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            y = apply(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, forward)
        direction = _unit(gradient)
    return direction


def _unit(x: Tensor) -> Tensor:
    return x / _lengths(x).clamp_min(1e-300).view(-1, *[1] * (x.dim() - 1))


def _ratios(apply: Map, x: Tensor, y: Tensor) -> Tensor:
    return (_lengths(apply(x) - apply(y)) / _lengths(x - y).clamp_min(1e-12)).clamp_min(1e-300)


def _lengths(x: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return lengths


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
