"""Costs as formulas: Table 1 of the paper, and the exact counts of this code, in the same symbols.

One sympy expression gives the number, the exponent in each variable and the formula that the report prints.

There are two conventions; no expression mixes them:

* *published*: leading terms as in Table 1 of arXiv 2311.16833. A complex multiply-accumulate is one MAC, a complex number is
  one element.
* *exact*: real MACs of this code (a complex one is 4) and real elements kept for the backward pass (a complex number is 2),
  in training mode, with an input that requires a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import sympy

HALVES = ("input", "parameters")
"""the two halves of a layer: the fields of `Complexity`"""
QUANTITIES = ("macs", "memory")
"""the quantities of a half that Table 1 states: fields of `Cost`"""

b, s, n, c, k, t, t1, t2 = sympy.symbols("b s n c k t t1 t2", integer=True, positive=True)
SYMBOLS = {str(symbol): symbol for symbol in (b, s, n, c, k, t, t1, t2)}
"""symbols by name, in their order within a term; n = s + k − 1 is the size of the padded image"""

C = b * s**2 * c**2 * k**2
"""MACs of one convolution"""
M = b * s**2 * c
"""elements of one activation"""
P = c**2 * k**2
"""elements of one kernel"""


@dataclass(frozen=True)
class Cost:
    """Cost of one half: multiply-accumulates of a call, elements kept for its backward pass, and MACs of the backward pass."""

    macs: sympy.Expr
    memory: sympy.Expr
    backward: sympy.Expr | None = None
    """exact real MACs of the backward pass, for gradients of the input and of every parameter; None: unknown"""

    def __add__(self, other: Cost) -> Cost:
        """Cost of both, one after the other."""
        backward = None if self.backward is None or other.backward is None else self.backward + other.backward
        return Cost(self.macs + other.macs, self.memory + other.memory, backward)


@dataclass(frozen=True)
class Complexity:
    """Costs of the two halves of a layer: the work on the input, and the work on the parameters."""

    input: Cost
    parameters: Cost


NOTHING = Cost(sympy.Integer(0), sympy.Integer(0))


def recomputed(exact: Complexity, advance: Cost = NOTHING, tail: sympy.Expr = NOTHING.macs) -> Complexity:
    """Exact costs of a layer whose backward pass computes both halves again.

    It keeps its input and the vectors of `advance()`, whose costs are `advance`. The backward pass repeats neither that call
    nor the `tail`: the MACs after the last tensor that it needs.
    """
    halves = (exact.input, M, tail), (exact.parameters, advance.memory, advance.macs)
    return Complexity(*(Cost(cost.macs, kept, _backward(cost, once)) for cost, kept, once in halves))


def _backward(cost: Cost, once: sympy.Expr) -> sympy.Expr | None:
    """MACs of the backward pass with those of the forward pass, but for those that run only once."""
    return None if cost.backward is None else cost.backward + cost.macs - once


def parse(text: str) -> sympy.Expr:
    """The expression of a text, in the symbols of this module and the shorthands C, M, P.

    It reads the formulas of `published/complexity.csv`, and `str` of every expression in these symbols. The text is evaluated,
    so it must be trusted.
    """
    return sympy.sympify(text, locals={**SYMBOLS, "C": C, "M": M, "P": P})


def exponent(expression: sympy.Expr, symbol: sympy.Symbol) -> int:
    """Exponent of the leading term as `symbol` grows; 0 where it does not occur. Logarithms count as constants."""
    polynomial = sympy.sympify(expression)
    for rounding in (sympy.floor, sympy.ceiling):
        polynomial = polynomial.replace(rounding, lambda argument: argument)
    polynomial = polynomial.replace(sympy.log, lambda argument, *base: sympy.Integer(1))
    polynomial = polynomial.replace(sympy.Piecewise, lambda first, *others: first[0])
    return 0 if polynomial == 0 else int(sympy.degree(sympy.expand(polynomial), symbol))


def evaluate(expression: sympy.Expr, **values: int) -> int:
    """The number at given sizes, e.g. `evaluate(C, b=256, s=32, c=64, k=3)`. Only the final result is rounded.

    n is computed from s and k. Raises `ValueError` if a symbol of the expression is not given.
    """
    return round(evaluate_unrounded(expression, **values))


def evaluate_unrounded(expression: sympy.Expr, **values: int) -> Fraction:
    """The number at given sizes without rounding, for use in sums: exact, or in double precision where there are logarithms.

    Raises `ValueError` if a symbol of the expression is not given.
    """
    known = {SYMBOLS[name]: sympy.Integer(value) for name, value in values.items()}
    result = sympy.sympify(expression).xreplace({n: s + k - 1}).xreplace(known)  # much quicker than `subs`
    if result.free_symbols:
        raise ValueError(f"no value for {', '.join(sorted(map(str, result.free_symbols)))} in {expression}")
    return Fraction(int(result.p), int(result.q)) if result.is_Rational else Fraction(float(result))


# --------------------------------------------------------------------------------------------------------- sums of monomials

_REFERENCE = {"b": 64, "s": 32, "n": 34, "c": 64, "k": 3, "t": 10, "t1": 10, "t2": 10}
"""sizes at which terms are sorted, the largest first"""


@dataclass(frozen=True)
class Monomial:
    """A term: a coefficient times powers of symbols times base-2 logarithms of symbols."""

    coefficient: Fraction
    powers: dict[str, int]
    """non-zero exponents by symbol, in the order of `SYMBOLS`"""
    logs: tuple[str, ...]
    """symbols whose logarithm is a factor, in the order of `SYMBOLS`"""

    @property
    def at_reference(self) -> Fraction:
        """The value of the term at typical sizes (`_REFERENCE`)."""
        logs = (Fraction(math.log2(_REFERENCE[name])) for name in self.logs)
        powers = (Fraction(_REFERENCE[name]) ** exponent for name, exponent in self.powers.items())
        return math.prod((*powers, *logs), start=self.coefficient)

    def is_below(self, other: Monomial) -> bool:
        """Whether the other term grows at least as fast in every size, for 1 ≤ k ≤ s; logarithms count as constants."""
        own, others = self._growth(), other._growth()
        if own == others:
            return set(self.logs) < set(other.logs)
        return (
            all(own[name] <= others[name] for name in ("b", "s", "c", "t")) and own["s"] + own["k"] <= others["s"] + others["k"]
        )

    def _growth(self) -> dict[str, int]:
        found = {name: self.powers.get(name, 0) for name in ("b", "s", "c", "k", "t")}
        return {**found, "s": found["s"] + self.powers.get("n", 0)}


def monomials(expression: sympy.Expr) -> list[Monomial]:
    """The terms of a sum of monomials, the largest first; 0 has no terms.

    Raises `ValueError` if a term of the expression is not a monomial.
    """
    terms = [] if expression == 0 else [_monomial(term) for term in sympy.Add.make_args(expression)]
    return sorted(terms, key=lambda term: (-abs(term.at_reference), _place(term)))


def _place(term: Monomial) -> list[tuple[bool, int]]:
    """Sort key for terms of equal size: their factors."""
    return [(name in term.logs, term.powers.get(name, 0)) for name in SYMBOLS]


def _monomial(term: sympy.Expr) -> Monomial:
    coefficient, rest = term.as_coeff_Mul(rational=True)
    factors = rest.as_powers_dict()
    powers = {name: int(factors[symbol]) for name, symbol in SYMBOLS.items() if symbol in factors}
    logs = tuple(name for name, symbol in SYMBOLS.items() if sympy.log(symbol) in factors)
    found = Monomial(Fraction(int(coefficient.p), int(coefficient.q)), powers, logs)
    if monomial(found.coefficient, powers, logs) != term:
        raise ValueError(f"not a monomial with a rational coefficient: {term}")
    return found


def monomial(coefficient: Fraction, powers: Mapping[str, int], logs: Iterable[str] = ()) -> sympy.Expr:
    """The expression of a term, from its exponents by symbol and the symbols whose base-2 logarithm is a factor."""
    factors = [SYMBOLS[name] ** exponent for name, exponent in powers.items()]
    return sympy.Mul(
        sympy.Rational(coefficient.numerator, coefficient.denominator),
        *factors,
        *(sympy.log(SYMBOLS[name], 2) for name in logs),
    )


def leading(expression: sympy.Expr) -> sympy.Expr:
    """The terms of a sum of monomials that no other term outgrows, with s in place of n."""
    terms = monomials(expression)
    kept = [term for term in terms if not any(term.is_below(other) for other in terms)]
    return sympy.Add(*(monomial(term.coefficient, term.powers, term.logs) for term in kept)).subs(n, s)
