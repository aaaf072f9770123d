"""Fits a sum of monomials, in the symbols of `theory`, to integers counted at a few sizes.

For each size separately, the search finds the fewest powers (and powers times a logarithm) that pass through every value. Their
products over all sizes are the only monomials that can occur; as many values as there are products give the coefficients. The
search computes exactly, with fractions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import sympy

from lipbench import theory

Sizes = Mapping[str, int]
"""values of b, s, c, k and, where there are iterations, t"""
Observe = Callable[[Sizes], Fraction | None]
"""sizes → the count there; None where it could not be made"""

_POWERS = {"s": 4, "n": 4, "c": 4, "k": 6, "t": 2}
"""highest power searched"""
_WITH_LOGARITHM = ("s", "n", "c")
MOST_MONOMIALS = 36
"""in one linear system"""
LARGEST_DENOMINATOR = 48
"""of a coefficient; a fit with a larger one is rejected as not a sum of monomials"""
ROUNDED_DENOMINATOR = 4
"""largest denominator of a coefficient fitted to rounded counts"""


@dataclass(frozen=True)
class Factor:
    """A factor of a term: `symbol^exponent`, times `log₂ symbol` if `log`."""

    symbol: str
    exponent: int
    log: bool = False

    def at(self, value: int) -> Fraction:
        """The factor at a value of the symbol."""
        power = Fraction(value**self.exponent)
        return power * _log2(value) if self.log else power


def _log2(value: int) -> Fraction:
    """Exact for powers of two."""
    return Fraction(value.bit_length() - 1) if value & (value - 1) == 0 else Fraction(math.log2(value))


# ------------------------------------------------------------------------------------------------------------------ the fit


def fit(observe: Observe, axes: Mapping[str, Sequence[int]], slack: int = 0) -> sympy.Expr | None:
    """Fit a sum of monomials to a count over axes s (or n instead), c, k and t; None if the search finds none.

    `slack` is the largest error of a rounded count; with 0 the sum must match every value exactly. An axis with one value is
    constant. The values of one axis are observed with the other axes at their bases: the largest image, and the smallest value
    of every other axis, but preferably not a kernel size of 1, where factors of k − 1 vanish.
    """
    base = {symbol: _base(symbol, values) for symbol, values in axes.items()}
    supports = {}
    for symbol, values in axes.items():
        along = [(value, _observed(observe, {**base, symbol: value})) for value in values]
        support = _support(symbol, [(value, count) for value, count in along if count is not None], slack)
        if support is None:
            return None
        supports[symbol] = support
    monomials = list(itertools.product(*supports.values()))
    if len(monomials) > MOST_MONOMIALS:
        return None
    # A grid with as many values per axis as that axis has factors always has one solution.
    chosen = [_nearest(symbol, axes[symbol], len(support)) for symbol, support in supports.items()]
    grid = [dict(zip(axes, point)) for point in itertools.product(*chosen)]
    counts = [count for point in grid if (count := _observed(observe, point)) is not None]
    if len(counts) < len(grid):
        return None
    rows = [[_product(monomial, point) for monomial in monomials] for point in grid]
    coefficients = _solve(rows, counts)
    if coefficients is None:
        return None
    if slack:
        coefficients = _simplest(coefficients, rows, counts, slack)
    elif any(coefficient.denominator > LARGEST_DENOMINATOR for coefficient in coefficients):
        return None
    return sympy.Add(*map(_term, coefficients, monomials))


def _term(coefficient: Fraction, factors: Sequence[Factor]) -> sympy.Expr:
    powers = {factor.symbol: factor.exponent for factor in factors}
    return theory.monomial(coefficient, powers, [factor.symbol for factor in factors if factor.log])


def _simplest(
    coefficients: Sequence[Fraction], rows: Sequence[Sequence[Fraction]], counts: Sequence[Fraction], slack: int
) -> list[Fraction]:
    """Simple fractions for the coefficients, as long as they match the rounded counts; a logarithm's may stay as it is."""
    simple = [coefficient.limit_denominator(ROUNDED_DENOMINATOR) for coefficient in coefficients]
    if _meets(rows, simple, counts, slack):
        return simple
    found = [coefficient.limit_denominator(10**6) for coefficient in coefficients]
    for index, coefficient in enumerate(simple):
        attempt = [*found[:index], coefficient, *found[index + 1 :]]
        found = attempt if _meets(rows, attempt, counts, slack) else found
    return found


def _meets(
    rows: Sequence[Sequence[Fraction]], coefficients: Sequence[Fraction], counts: Sequence[Fraction], slack: int
) -> bool:
    fitted = (sum((a * b for a, b in zip(row, coefficients)), Fraction(0)) for row in rows)
    return all(abs(found - count) <= slack for found, count in zip(fitted, counts))


def nearest_monomial(observe: Observe, axes: Mapping[str, Sequence[int]]) -> sympy.Expr:
    """One monomial that approximates a count without a fit; its exponents are the slopes at the largest sizes, rounded."""
    top = {symbol: max(values) for symbol, values in axes.items()}
    value = _observed(observe, top)
    factors = tuple(Factor(symbol, _slope(observe, top, symbol, values)) for symbol, values in axes.items())
    if not value:
        return sympy.Integer(0)
    return _term(Fraction(value / _product(factors, top)).limit_denominator(10**6), factors)


def _slope(observe: Observe, top: Sizes, symbol: str, values: Sequence[int]) -> int:
    below = sorted(values)[-2:]
    ends = [_observed(observe, {**top, symbol: value}) for value in below]
    if len(below) < 2 or not all(ends) or ends[0] is None or ends[1] is None or ends[1] / ends[0] <= 0:
        return 0
    return max(0, round(math.log(ends[1] / ends[0]) / math.log(below[1] / below[0])))


def _observed(observe: Observe, point: Sizes) -> Fraction | None:
    """The count at a point, whose image size may be given with padding, as n."""
    if "n" not in point:
        return observe(point)
    sizes = {**point, "s": point["n"] - point["k"] + 1}
    del sizes["n"]
    return observe(sizes) if sizes["s"] >= 1 else None


def _base(symbol: str, values: Sequence[int]) -> int:
    if symbol in ("s", "n"):
        return max(values)
    return min((value for value in values if value > 1), default=1) if symbol == "k" else min(values)


def _nearest(symbol: str, values: Sequence[int], count: int) -> list[int]:
    """The base, and the values nearest to it."""
    ordered = sorted(values, reverse=symbol in ("s", "n"))
    ordered.remove(_base(symbol, values))
    return [_base(symbol, values), *ordered][:count]


def _product(factors: Sequence[Factor], point: Sizes) -> Fraction:
    return math.prod((factor.at(point[factor.symbol]) for factor in factors), start=Fraction(1))


def _candidates(symbol: str) -> tuple[list[Factor], list[Factor]]:
    powers = [Factor(symbol, exponent) for exponent in range(_POWERS[symbol] + 1)]
    logs = [Factor(symbol, exponent, log=True) for exponent in range(_POWERS[symbol])] if symbol in _WITH_LOGARITHM else []
    return powers, logs


def _support(symbol: str, points: Sequence[tuple[int, Fraction]], slack: int) -> tuple[Factor, ...] | None:
    """The fewest factors in one symbol whose linear combination passes through all points; there must be more points."""
    if len(points) == 1 or len({value for _, value in points}) == 1:
        return (Factor(symbol, 0),)
    powers, logs = _candidates(symbol)
    for functions in (powers, powers + logs):
        for count in range(1, len(points)):
            for chosen in itertools.combinations(functions, count):
                if _passes(chosen, points, slack):
                    return chosen
    return None


def _passes(functions: Sequence[Factor], points: Sequence[tuple[int, Fraction]], slack: int) -> bool:
    rows = [[function.at(size) for function in functions] for size, _ in points]
    values = [value for _, value in points]
    first = len(points) - len(functions)  # the largest values have the smallest relative rounding error
    coefficients = _solve(rows[first:], values[first:])
    if coefficients is None:
        return False
    return _meets(rows[:first], coefficients, values[:first], slack)


def _solve(rows: Sequence[Sequence[Fraction]], values: Sequence[Fraction]) -> list[Fraction] | None:
    """The solution of a square system by Gaussian elimination; None if it is singular."""
    matrix = [[*row, value] for row, value in zip(rows, values)]
    for column in range(len(matrix)):
        pivot = next((row for row in range(column, len(matrix)) if matrix[row][column]), None)
        if pivot is None:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        divisor = matrix[column][column]
        matrix[column] = [entry / divisor for entry in matrix[column]]
        for row in range(len(matrix)):
            factor = matrix[row][column]
            if row != column and factor:
                matrix[row] = [entry - factor * other for entry, other in zip(matrix[row], matrix[column])]
    return [row[-1] for row in matrix]
