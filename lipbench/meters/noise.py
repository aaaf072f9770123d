"""How exactly a map computes: whether two calls agree, how far its output jumps, and in which dtype it computes.

A map takes and returns float64 tensors whose first dimension is the batch. Inside, it may compute in float32 or bfloat16,
round, iterate to a tolerance, draw random numbers, or change its own state. Bounds of a Lipschitz constant must allow for that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Map = Callable[[Tensor], Tensor]
Restore = Callable[[], None]

SCALES = (1e-1, 1.0, 1e2)
"""Root mean squares of the inputs at which jumps are measured."""
HALVINGS, KINK = 36, 8
"""Bisections of a segment, which leave 1e-11 of it; over the last `KINK` of them, what deviates at a kink becomes 256 times
smaller, and what deviates at a jump stays."""
LENGTHS = (1.0, 1e-2)
"""Lengths of the segments that are bisected, relative to their distance from the origin."""
SAME = 1e-10
"""Relative difference between two results of one exact map."""
NEGLIGIBLE = 1e-6
"""Relative noise that decides no question at the tolerance of a violation."""
JUMP = 1e-4
"""Jump at inputs of root mean square 1, relative to one entry, of a map that cannot be called continuous."""
DISCONTINUITY = 0.05
"""Jump relative to an entry of the input, or of the output if that is larger, from which on neither float32 nor the tolerance
of an iteration explains it."""
ROUNDING = ("aten.round", "aten.floor", "aten.ceil", "aten.trunc", "aten.sign", "aten.bucketize", "quantize")
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Noise:
    """The noise of a map, and the same map in a form that can be measured."""

    apply: Map
    """the map, with the random state and its own state fixed, and for one image at a time, where that makes a difference"""
    width: float
    """√max(inputs, outputs) of one image"""
    jumps: tuple[tuple[float, float], ...] = ()
    """root mean square of the inputs, and the largest jump of the output there, as a norm; without the scales that fail; empty
    if no output is finite at 1"""
    size: float = 0.0
    """root mean square of the output for inputs of root mean square 1"""
    spread: float = 0.0
    """relative difference between two calls on one input"""
    is_coupled: bool = False
    """whether the images of a batch influence each other"""
    dtype: torch.dtype | None = None
    """the lowest dtype below float64 in which an operation returns its result, if the output jumps"""
    operations: int = 0
    """number of operations that return a dtype below float64"""
    rounds: bool = False
    """whether an operation rounds to integers, if the output jumps"""
    steepness: float = 0.0
    """the ratio of two outputs' distance to that of their inputs, on both sides of a discontinuity; 0 where there is none"""

    @property
    def is_finite(self) -> bool:
        """Whether the map can be measured: its outputs are finite for inputs of root mean square 1."""
        return bool(self.jumps)

    @property
    def largest_scale(self) -> float:
        """The largest root mean square of inputs that give finite outputs."""
        return self.jumps[-1][0]

    @property
    def drift(self) -> float:
        """Relative error of a constant where weights and intermediate results are rounded to `dtype`."""
        return 0.0 if self.dtype is None else 2 * torch.finfo(self.dtype).eps * max(1, self.operations) ** 0.5

    @property
    def relative(self) -> float:
        """The largest jump for inputs of root mean square 1, relative to one entry of the input."""
        return dict(self.jumps)[1.0]

    @property
    def is_explained(self) -> bool:
        """Whether the jumps are those of rounding to `dtype`, which are relative to the size of the numbers."""
        return self.dtype is not None and self.relative <= 16 * torch.finfo(self.dtype).eps * max(1.0, self.size)

    @property
    def is_doubtful(self) -> bool:
        """Whether bounds cannot prove anything of the map: it is random, or jumps more than its dtype explains."""
        return self.is_coupled or self.spread > NEGLIGIBLE or (self.relative > JUMP and not self.is_explained)

    def amplitude(self) -> float:
        """The root mean square at which the noise is smallest relative to the input; 1 where others are hardly better."""
        scale, jump = min(self.jumps, key=lambda one: one[1] / one[0])
        return 1.0 if self.relative <= 4 * jump / scale else scale

    def errors(self, scales: Tensor) -> Tensor:
        """Bounds of the noise of an evaluation, as norms, for inputs with these root mean squares; interpolated linearly."""
        known = scales.new_tensor([(0.0, self.jumps[0][1]), *self.jumps])
        at, jumps = known[:, 0].contiguous(), known[:, 1].cummax(0).values
        above = torch.searchsorted(at, scales.detach()).clamp(1, len(at) - 1)
        share = (scales.detach() - at[above - 1]) / (at[above] - at[above - 1])
        found = jumps[above - 1] + share * (jumps[above] - jumps[above - 1])
        return self.width * torch.maximum(found, jumps[-1] * scales.detach() / at[-1] * (share > 1))

    def reason(self) -> str:
        """Why bounds of this map are not exact, in words; "" for an exact map."""
        if not self.is_finite:
            return "the output is NaN or infinite for random inputs"
        if self.spread > SAME:
            return f"two calls on one input differ by {self.spread:.0e} of the output"
        if self.is_coupled:
            return "images of a batch influence each other"
        if self.dtype is not None and self.is_explained:
            return f"computes in {str(self.dtype).removeprefix('torch.')}"
        if self.relative > NEGLIGIBLE / self.width:
            how = "it rounds: " if self.rounds else ""
            return f"{how}the output jumps by {self.relative:.0e} where the input hardly changes"
        return ""


@torch.no_grad()
def survey(apply: Map, like: Tensor, restore: Restore | None = None) -> Noise:
    """The noise of a map on float64 tensors shaped `like`, (1, …). `restore` resets the state that a call may change.

    Errors of the map at inputs of root mean square 1 are passed on; other scales at which it raises are left out.
    """
    x = normal(like, 1)
    first = apply(x)
    found = Noise(apply, max(x.numel(), first.numel()) ** 0.5, size=float(first.norm()) / first.numel() ** 0.5)
    if not bool(torch.isfinite(first).all()):
        return found
    found = replace(found, spread=difference(first, apply(x)))
    if found.spread > SAME:
        found = replace(found, apply=_fixed(apply, restore))
    unsteady = difference(found.apply(x), found.apply(x))
    images = torch.cat([normal(like, seed) for seed in range(1, 5)])
    coupled = difference(found.apply(images), one_by_one(found.apply)(images))
    if coupled > max(JUMP, 4 * unsteady):
        alone = replace(found, apply=one_by_one(found.apply), is_coupled=found.spread <= SAME)
        alone = replace(alone, jumps=_jumps_of(alone.apply, like))
        noisy = coupled * float(first.norm()) <= 4 * alone.width * alone.relative
        found = replace(alone, apply=found.apply, is_coupled=False) if noisy else alone
        coupled = coupled if noisy else 0.0
    else:
        found = replace(found, jumps=_jumps_of(found.apply, like))
    own = 4 * max(unsteady, coupled) * float(first.norm()) / found.width
    found = replace(found, jumps=tuple((scale, max(jump, own * max(1.0, scale))) for scale, jump in found.jumps))
    if all(jump <= 1e-13 * scale * (1 + found.size) for scale, jump in found.jumps):
        return found
    with _Witness() as seen:
        found.apply(x)
    found = replace(found, dtype=seen.dtype, operations=seen.operations, rounds=seen.rounds)
    if found.is_explained:
        return found
    jump = max(jump / scale for scale, jump in found.jumps)
    is_coarse = found.dtype is not None and torch.finfo(found.dtype).eps > torch.finfo(torch.float32).eps
    is_steady = max(found.spread, coupled) <= SAME and not found.is_coupled
    if jump > DISCONTINUITY * max(1.0, found.size) and is_steady and not is_coarse:
        # The ends of the last half are at most 1.5 width · scale / 2^HALVINGS apart.
        found = replace(found, steepness=jump * 2.0**HALVINGS / (1.5 * found.width))
    return replace(found, jumps=_at_all_scales(found))


def normal(like: Tensor, seed: int) -> Tensor:
    """Normally distributed numbers in the shape of `like`, on its device; the same for one seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def unit(x: Tensor) -> Tensor:
    """The images of a batch divided by their norms."""
    return x / each(lengths(x).clamp_min(1e-300), x)


def lengths(x: Tensor) -> Tensor:
    """Norms of the images of a batch."""
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


def each(values: Tensor, like: Tensor) -> Tensor:
    """One value per image, in a shape that multiplies a batch of images."""
    return values.view(-1, *[1] * (like.dim() - 1))


def difference(one: Tensor, other: Tensor) -> float:
    """Largest relative difference between the images of two batches."""
    return float((lengths(one - other) / lengths(one).clamp_min(1e-300)).max())


# ------------------------------------------------------------------------------------------------------------------ jumps


def _jumps_of(apply: Map, like: Tensor) -> tuple[tuple[float, float], ...]:
    """The largest jump at each scale at which the map gives finite outputs; at least the rounding of float64."""
    scales = [scale for scale in SCALES if scale == 1 or _works(apply, scale * normal(like, 1))]
    left, right = [], []
    for scale in scales:
        for seed, length in enumerate(LENGTHS):
            left.append(scale * normal(like, seed))
            right.append(left[-1] + scale * length * normal(like, seed + len(LENGTHS)))
    found = bisected(apply, torch.cat(left), torch.cat(right)).view(len(scales), len(LENGTHS)).amax(1)
    return tuple(zip(scales, map(float, found)))


def _at_all_scales(found: Noise) -> tuple[tuple[float, float], ...]:
    """The jumps, also at scales at which none was met.

    A grid has none near 0, and yet an error: the largest jump holds everywhere. Other noise is at least in proportion to the
    scale.
    """
    if found.rounds:
        worst = max(jump for _, jump in found.jumps)
        return tuple((scale, worst) for scale, _ in found.jumps)
    exact = 1e-13 * (1 + found.size)
    least = min(jump / scale for scale, jump in found.jumps if jump > exact * scale)
    return tuple((scale, max(jump, scale * least)) for scale, jump in found.jumps)


def _works(apply: Map, x: Tensor) -> bool:
    try:
        return bool(torch.isfinite(apply(x)).all())
    except Exception:  # a map may refuse large numbers in any way
        return False


@torch.no_grad()
def bisected(apply: Map, left: Tensor, right: Tensor) -> Tensor:
    """Sizes of the jumps, one for each segment between two batches of points, found by bisection.

    The half is kept whose middle deviates more from the mean of its ends. This deviation is the whole jump where there is one,
    and vanishes quadratically where the map is smooth, linearly at a kink.
    """
    middle = (left + right) / 2
    at_left, at_middle, at_right = apply(left), apply(middle), apply(right)
    rounding = 64 * EPSILON * (lengths(at_left) + lengths(at_right) + lengths(at_middle)) / at_left[0].numel() ** 0.5
    history = []
    for _ in range(HALVINGS):
        before, after = (left + middle) / 2, (middle + right) / 2
        at_before, at_after = apply(torch.cat((before, after))).chunk(2)
        deviations = lengths(at_left - 2 * at_before + at_middle), lengths(at_middle - 2 * at_after + at_right)
        first = deviations[0] >= deviations[1]

        def kept(one: Tensor, other: Tensor, first: Tensor = first) -> Tensor:
            return torch.where(each(first, one), one, other)

        left, middle, right = kept(left, middle), kept(before, after), kept(middle, right)
        at_left, at_middle, at_right = kept(at_left, at_middle), kept(at_before, at_after), kept(at_middle, at_right)
        history.append(torch.maximum(*deviations))
    jumps: Tensor = history[-1] * (history[-1] > history[-1 - KINK] / 16)
    return torch.maximum(jumps.nan_to_num(0.0), rounding.nan_to_num(0.0))


# ------------------------------------------------------------------------------------------------------- random and coupled


def _fixed(apply: Map, restore: Restore | None) -> Map:
    """The map with the same random numbers, and from the same state, in every call."""

    def fixed(x: Tensor) -> Tensor:
        with _seeded(x.device):
            if restore is not None:
                restore()
            return apply(x)

    return fixed


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Within the block, the generators of torch, numpy and Python begin at 0; after it, they are as before."""
    own, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)


def one_by_one(apply: Map) -> Map:
    """The map on each image of a batch alone."""
    return lambda x: torch.cat([apply(image) for image in torch.split(x, 1)])


# ---------------------------------------------------------------------------------------------------------------- witness


class _Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives its constructor no types
    """Notes in which dtypes the operations of a call return their results, and whether one of them rounds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.dtype: torch.dtype | None = None
        self.operations = 0
        self.rounds = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        dtypes = {one.dtype for one in tree_leaves(result) if isinstance(one, Tensor) and one.dtype.is_floating_point}
        low = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
        if torch.finfo(low).eps > EPSILON:
            self.operations += 1
            if self.dtype is None or torch.finfo(low).eps > torch.finfo(self.dtype).eps:
                self.dtype = low
        whole = isinstance(result, Tensor) and not result.is_floating_point() and "_to_copy" in str(func)
        self.rounds = self.rounds or whole or any(name in str(func) for name in ROUNDING)
        return result
