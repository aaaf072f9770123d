"""Whole numbers counted at a few sizes → the sum of monomials they are, as an expression in the symbols of `theory`.

Along each size by itself, the fewest powers (and powers times a logarithm) are looked for that pass through every value. Their
products over all sizes are the only monomials that can occur; as many values as there are products give the coefficients. The
search computes with fractions, exactly.
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
"""what was counted at some sizes; None where that could not be"""

_POWERS = {"s": 4, "n": 4, "c": 4, "k": 6, "t": 2}
"""highest power looked for"""
_WITH_LOGARITHM = ("s", "n", "c")
MOST_MONOMIALS = 36
"""that are solved for at once"""
LARGEST_DENOMINATOR = 48
"""of a coefficient; what needs a larger one was no sum of monomials"""
ROUNDED_DENOMINATOR = 4
"""to which coefficients are rounded where counts were"""


@dataclass(frozen=True)
class Factor:
    """One that a term may have: `symbol^exponent`, times `log₂ symbol` if `log`."""

    symbol: str
    exponent: int
    log: bool = False

    def at(self, value: int) -> Fraction:
        """The number where the symbol has this value."""
        power = Fraction(value**self.exponent)
        return power * _log2(value) if self.log else power


def _log2(value: int) -> Fraction:
    """Exact for powers of two."""
    return Fraction(value.bit_length() - 1) if value & (value - 1) == 0 else Fraction(math.log2(value))


# ------------------------------------------------------------------------------------------------------------------ the fit


def fit(observe: Observe, axes: Mapping[str, Sequence[int]], slack: int = 0) -> sympy.Expr | None:
    """The sum that a count is over axes s (or n in its place), c, k and t; None if it is none that was looked for.

    `slack` is what a count may be off by, having been rounded; at 0 every value has to be met exactly. An axis of one value is
    a constant. The values of an axis are taken with the others at their bases: the largest image, and the smallest of all else,
    but of a kernel preferably not 1, which hides what multiplies k − 1.
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
    # For a grid with as many values per axis as that axis has factors there is always one solution.
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
    """Coefficients of rounded counts, each made a simple fraction as long as the counts are met; a logarithm may be none."""
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
    """One monomial near a count that is no such sum; its exponents are the slopes at the largest sizes, to whole numbers."""
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
    """A count at a point whose image may be given with its padding."""
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
    """The base, and values next to it."""
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
    """The fewest factors in one symbol whose combination passes through all points; the points must be more than they."""
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
    first = len(points) - len(functions)  # the largest values have the smallest relative error of rounding
    coefficients = _solve(rows[first:], values[first:])
    if coefficients is None:
        return False
    return _meets(rows[:first], coefficients, values[:first], slack)


def _solve(rows: Sequence[Sequence[Fraction]], values: Sequence[Fraction]) -> list[Fraction] | None:
    """The solution of a square system by elimination; None if it has not just one."""
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
