"""One half of one quantity of a layer: its counts, the sum fitted to them, and the error of the sum at other sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import sympy

from lipbench import notation, theory
from lipbench.prediction.counting import DEFAULTS, Counter, Plan
from lipbench.prediction.fitting import Sizes, fit, nearest_monomial
from lipbench.theory import QUANTITIES

LONGEST = 6
"""terms in s and k; for longer sums, a sum in n = s + k − 1 is searched"""
THIRDS = (12, 24, 48, 96, 192)
"""image sizes to try if no sum fits at powers of two: some layers divide an image by 3"""
ROUNDING = 4
"""largest error of a half of a count: logarithms make it a fraction, which the meter rounds once per pass"""


class Half:
    """One half of one quantity as a function of the sizes; remembers the sizes of its calls."""

    def __init__(self, counter: Counter, plan: Plan, half: str, quantity: str) -> None:
        self.half, self.quantity, self.plan = half, quantity, plan
        self._counter = counter
        self._seen: set[tuple[tuple[str, int], ...]] = set()

    def __call__(self, sizes: Sizes) -> Fraction | None:
        """The count, per image for the input half; None where the layer refuses the sizes."""
        self._seen.add(tuple(sorted(sizes.items())))
        return self._between(self.plan.batch_sizes[0], self.plan.batch_sizes[1], sizes)

    def _between(self, small: int, large: int, sizes: Sizes) -> Fraction | None:
        """The slope between two batch sizes, or the intercept of the line through them."""
        ends = self._counter.totals(small, **sizes), self._counter.totals(large, **sizes)
        if ends[0] is None or ends[1] is None:
            return None
        index = QUANTITIES.index(self.quantity)
        slope = Fraction(ends[1][index] - ends[0][index], large - small)
        return slope if self.half == "input" else ends[0][index] - slope * small

    def observed(self) -> Iterator[tuple[Sizes, Fraction]]:
        """Sizes and values that fits have used."""
        for sizes in map(dict, sorted(self._seen)):
            value = self(sizes)
            if value is not None:
                yield sizes, value

    def examples(self) -> Iterator[dict[str, float]]:
        """Counts at a few sizes, for a whole batch: at small ones, and at the next value of each symbol in turn."""
        axes, b = self.plan.axes, self.plan.batch_sizes[0]
        base = {symbol: values[1] if symbol == "k" and values[0] == 1 and len(values) > 1 else values[0]
                for symbol, values in axes.items()}  # fmt: skip
        following = [{**base, symbol: values[values.index(base[symbol]) + 1]}
                     for symbol, values in axes.items() if values[-1] > base[symbol]]  # fmt: skip
        for sizes in (base, *following):
            value = self(sizes)
            if value is not None:
                yield {"b": b, **sizes, "count": float(value * b if self.half == "input" else value)}

    def is_line(self) -> bool:
        """Whether slope and intercept are the same between all batch sizes of the grid, up to rounding."""
        first, *others = self.plan.batch_sizes
        sizes = {symbol: values[-1] if symbol in "sk" else values[0] for symbol, values in self.plan.axes.items()}
        found = [value for other in others if (value := self._between(first, other, sizes)) is not None]
        return not found or max(found) - min(found) <= (ROUNDING if self.quantity == "macs" else 0)

    def held_out(self, stride: int) -> Iterator[tuple[Sizes, Fraction]]:
        """Sizes and values at probes that no fit has used, from other batch sizes where possible.

        The image sizes of the probes are multiplied by `stride`.
        """
        for probe in self.plan.probes:
            sizes = {symbol: value for symbol, value in probe.items() if symbol != "b"} | {"s": stride * probe["s"]}
            if tuple(sorted(sizes.items())) in self._seen:
                continue
            others = [b for b in self.plan.batch_sizes if b != probe["b"]]
            value = self._between(others[0], probe["b"], sizes)
            if value is not None:
                yield sizes, value

    def fitted(self, axes: Mapping[str, Sequence[int]]) -> sympy.Expr | None:
        """The fitted sum in s; if that is long or there is none, a sum in n if that is shorter."""
        for slack in (0, ROUNDING) if self.quantity == "macs" else (0,):
            plain = fit(self, axes, slack)
            if plain is not None and (_length(plain) <= LONGEST or not plain.has(theory.s)):
                return plain
            padded = fit(self, {"n": axes["s"], **{symbol: axes[symbol] for symbol in axes if symbol != "s"}}, slack)
            found = [one for one in (plain, padded) if one is not None]
            if found:
                return min(found, key=_length)
        return None


def _length(expression: sympy.Expr) -> int:
    return len(theory.monomials(expression))


@dataclass(frozen=True)
class Found:
    """The sum fitted to one half, per image for the input half."""

    whole: sympy.Expr
    at_kernel_1: sympy.Expr | None = None
    """for 1 × 1 kernels, where `whole` holds only for larger ones"""
    note: str = ""
    stride: int = 1
    """the sum holds for image sizes that are multiples of this"""
    is_exact: bool = True
    """whether it fits the counts that it was fitted to"""


def fit_half(half: Half) -> Found:
    """Fit one sum for all kernels, or else one for k > 1 and one for k = 1; for all images, or else for s divisible by 3."""
    axes = half.plan.axes
    found = _fit_kernels(half, axes)
    if found is not None:
        return found
    if axes["s"] == DEFAULTS["s"]:  # the defaults, not sizes that the user gave
        found = _fit_kernels(half, {**axes, "s": THIRDS})
        if found is not None:
            return replace(found, note="; ".join(filter(None, ("where 3 divides s", found.note))), stride=3)
    cure = "image sizes of one parity" if len({size % 2 for size in axes["s"]}) > 1 else "more sizes"
    note = f"no exact sum was found; this is the nearest monomial; try {cure}"
    return Found(nearest_monomial(half, axes), note=note, is_exact=False)


def _fit_kernels(half: Half, axes: Mapping[str, tuple[int, ...]]) -> Found | None:
    whole = half.fitted(axes)
    if whole is not None:
        return Found(whole)
    larger = tuple(k for k in axes["k"] if k > 1)
    if not larger or len(larger) == len(axes["k"]):
        return None
    above, one = half.fitted({**axes, "k": larger}), half.fitted({**axes, "k": (1,)})
    if above is None or one is None:
        return None
    return Found(above, one, f"k > 1; at k = 1: {notation.sum_text(whole_batch(one) if half.half == 'input' else one)}")


def whole_batch(per_image: sympy.Expr) -> sympy.Expr:
    """The sum for a batch of b images."""
    return sympy.expand(theory.b * per_image)


def residual_of(half: Half, found: Found, rounded: bool) -> tuple[float, int]:
    """Largest relative error at the held-out probes, and their number. One that is not exact is held against all counts."""
    allowed = ROUNDING if rounded and half.quantity == "macs" else 0
    seen = []
    for sizes, value in (*half.held_out(found.stride), *(() if found.is_exact else half.observed())):
        fitted = found.at_kernel_1 if found.at_kernel_1 is not None and sizes["k"] == 1 else found.whole
        error = abs(theory.evaluate_unrounded(fitted, **sizes) - value)
        seen.append(float(error / max(abs(value), Fraction(1))) if error > allowed else 0.0)
    return (max(seen), len(seen)) if seen else (math.nan, 0)
