"""Lower bounds of Lipschitz constants, by a search for the pair of inputs that a map moves apart most.

Each bound is the ratio of a pair that was evaluated, less the noise of both evaluations. Gradients only show where to search: a
wrong one, or none, gives a worse bound and never a false one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipbench.meters import noise
from lipbench.meters.noise import Map, Noise, each, lengths, unit
from lipbench.quantities import Bound

POINTS, POWER_STEPS, STEPS, RATE = 8, 20, 60, 0.05
LARGEST = 10.0
"""Largest root mean square of the points."""
AGREEMENT = 0.1
"""Relative difference between a gradient and finite differences that shows that the gradient is wrong."""


def lower_bound(apply: Map, like: Tensor, known: Noise | None = None) -> Bound:
    """A lower bound of the Lipschitz constant of a map on tensors shaped `like`, (1, …): the largest ratio found.

    Power iteration finds the Jacobian's norm at random points. Gradient ascent then maximises ‖f(x) − f(y)‖ ÷ ‖x − y‖, from
    pairs of points at small and large distances along the strongest directions. Without usable gradients, random steps do.
    The bound is 0 where the noise, which is measured if it is not `known`, is as large as the differences.
    """
    known = known or noise.survey(apply, like)
    if not known.is_finite:
        return Bound(0.0, None, "lower bound", "ascent", image_size(like))
    apply = known.apply
    top = math.log10(min(LARGEST, known.largest_scale))
    scales = torch.logspace(-1, max(top, -1), POINTS, dtype=torch.float64).tolist()
    x = torch.cat([scale * noise.normal(like, seed) for seed, scale in enumerate(scales)])
    errors = known.errors(_scales(x))
    direction, has_gradient = _strongest_directions(apply, x, (1e3 * errors).clamp_min(1e-6).minimum(lengths(x)))
    best = _Best(known, x)
    with torch.no_grad():
        near = x + each((1e4 * errors).clamp_min(1e-4).minimum(lengths(x)), x) * direction
        best.note(x, near, apply(x), apply(near))
    distances = torch.logspace(-2, 1, POINTS, dtype=x.dtype, device=x.device)
    pair = torch.stack((x, x + each(distances.maximum((1e2 * errors).minimum(lengths(x))), x) * direction))
    if not (has_gradient and _ascend(apply, pair, best)):
        _wander(apply, pair, best)
    return best.bound(like)


def image_size(like: Tensor) -> int:
    """Image size of a batch of images; 1 for a batch of features."""
    return int(like.shape[-1]) if like.dim() == 4 else 1


def _scales(x: Tensor) -> Tensor:
    """Root mean squares of the images of a batch."""
    return lengths(x) / math.sqrt(x[0].numel())


# ---------------------------------------------------------------------------------------------------------------- the best


@dataclass
class _Best:
    """The best pair of each point, and the bound that they show."""

    known: Noise
    start: Tensor
    pairs: Tensor = field(init=False)
    gains: Tensor = field(init=False)
    """‖f(x) − f(y)‖ of the pairs"""

    def __post_init__(self) -> None:
        self.pairs = torch.stack((self.start, self.start))
        self.gains = torch.zeros_like(self.start.flatten(1)[:, 0])

    @torch.no_grad()
    def note(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor) -> Tensor:
        """Keep the pairs that are better; returns which are."""
        gains = lengths(at_x.detach() - at_y.detach())
        ratios = self._ratios(gains, torch.stack((x, y))).nan_to_num(0.0, 0.0, 0.0)
        better = ratios > self._ratios(self.gains, self.pairs)
        self.pairs = torch.where(each(better, x), torch.stack((x, y)).detach(), self.pairs)
        self.gains = torch.where(better, gains, self.gains)
        return better

    def _ratios(self, gains: Tensor, pairs: Tensor, jump: float = 0.0) -> Tensor:
        """The ratios of pairs less the noise, which is that of `jump` if that is larger than the known one."""
        x, y = pairs
        errors = (self.known.errors(_scales(x)) + self.known.errors(_scales(y))).clamp_min(2 * self.known.width * jump)
        ratios: Tensor = (gains - errors) / lengths(x - y).clamp_min(1e-12) / (1 + self.known.drift)
        return ratios.clamp_min(0.0)

    @torch.no_grad()
    def bound(self, like: Tensor) -> Bound:
        """The best ratio, after a search for a jump between the two points that show it.

        A jump that the survey has not met would make the ratio of a pair on its two sides larger than the constant.
        """
        jump = 0.0
        for _ in range(len(self.gains)):
            ratios = self._ratios(self.gains, self.pairs, jump)
            place = int(ratios.argmax())
            x, y = self.pairs[:, place : place + 1]
            found = float(noise.bisected(self.known.apply, x, y)) if float(ratios[place]) > 0 else 0.0
            if found <= max(jump, float(self.known.errors(_scales(x))) / self.known.width):
                break
            jump = 2 * found
        ratios = self._ratios(self.gains, self.pairs, jump)
        place = int(ratios.argmax())
        x, y = self.pairs[:, place : place + 1]
        largest = float(ratios[place])
        raw = float(self.gains[place] / lengths(x - y).clamp_min(1e-12))
        return Bound(largest, None, "lower bound", "ascent", image_size(like), uncertainty=max(0.0, raw - largest))


# -------------------------------------------------------------------------------------------------------------- the search


def _strongest_directions(apply: Map, x: Tensor, steps: Tensor) -> tuple[Tensor, bool]:
    """Unit vectors (n, …) that the Jacobian stretches most, one for each point, by power iteration with differences of `steps`.

    They are random if the gradients of the map are missing or wrong; the second result is then False.
    """
    start = unit(torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device))
    direction = start
    for step in range(POWER_STEPS):
        with torch.no_grad():
            moved = each(steps, x) * direction
            forward = (apply(x + moved) - apply(x - moved)) / each(2 * steps, x)
        gradient = _gradient(apply, x, forward)
        if gradient is None:
            return start, False
        if step == 0 and not _agree((gradient * direction).flatten(1).sum(1), forward.flatten(1).square().sum(1)):
            return start, False
        length = lengths(gradient)
        usable = torch.isfinite(length) & (length > 1e-200)
        direction = torch.where(each(usable, x), unit(gradient), direction)
    return direction, True


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two estimates of one derivative agree at most points; at some, a kink or the noise may make a difference."""
    close = (one - other).abs() <= AGREEMENT * other.abs()
    return bool(close.sum() * 2 > len(close))


def _gradient(apply: Map, x: Tensor, direction: Tensor) -> Tensor | None:
    """The product of the transposed Jacobian with a direction; None where the map has no gradient."""
    leaf = x.detach().requires_grad_()
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(apply(leaf), leaf, direction)
    except Exception:  # a backward pass may raise anything
        return None
    return gradient


def _ascend(apply: Map, pair: Tensor, best: _Best) -> bool:
    """Maximise the ratios of pairs (2, n, …) by gradient ascent; False if a call or its gradient fails."""
    pair = pair.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([pair], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        try:
            with torch.enable_grad():
                at_x, at_y = apply(pair[0]), apply(pair[1])
                ratios = lengths(at_x - at_y) / lengths(pair[0] - pair[1]).clamp_min(1e-12)
                (-ratios.clamp_min(1e-300).log().sum()).backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        except Exception:  # a backward pass may raise anything, and a map may refuse a place
            return False
        best.note(pair[0], pair[1], at_x, at_y)
        assert pair.grad is not None
        pair.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
    return True


@torch.no_grad()
def _wander(apply: Map, pair: Tensor, best: _Best) -> None:
    """Improve pairs (2, n, …) by random steps, of which those that increase the ratio are kept."""
    generator = torch.Generator().manual_seed(0)
    distance = lengths(pair[0] - pair[1])
    for _ in range(3 * STEPS):
        step = torch.randn(pair.shape[1:], generator=generator, dtype=pair.dtype).to(pair.device)
        trial = pair[0] + each(distance, step) * unit(pair[1] - pair[0] + each(0.5 * distance, step) * unit(step))
        try:
            better = best.note(pair[0], trial, apply(pair[0]), apply(trial))
        except Exception:  # a map may refuse a place
            return
        pair[1] = torch.where(each(better, trial), trial, pair[1])
