"""Costs as formulas: Table 1 of the paper, and the exact counts of this code, in the same symbols.

One sympy expression gives the number, the exponent in each variable and the formula that the report prints.

Two conventions stand side by side, never mixed in one expression:

* *published*: leading terms as in Table 1 of arXiv 2311.16833. A complex multiply-accumulate is one MAC, a complex number is
  one element.
* *exact*: real MACs of this code (a complex one is 4) and real elements kept for the backward pass (a complex number is 2),
  in training mode, with an input that requires a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy

b, s, c, k, t, t1, t2 = sympy.symbols("b s c k t t1 t2", integer=True, positive=True)
SYMBOLS = {str(symbol): symbol for symbol in (b, s, c, k, t, t1, t2)}

C = b * s**2 * c**2 * k**2
"""MACs of one convolution"""
M = b * s**2 * c
"""elements of one activation"""
P = c**2 * k**2
"""elements of one kernel"""


@dataclass(frozen=True)
class Cost:
    """Of one half: multiply-accumulates of one call, elements kept for its backward pass, and that pass's MACs."""

    macs: sympy.Expr
    memory: sympy.Expr
    backward: sympy.Expr | None = None
    """exact real MACs of the backward pass through it, for gradients of the input and of every parameter; None: unknown"""

    def __add__(self, other: Cost) -> Cost:
        """Of both, one after the other."""
        backward = None if self.backward is None or other.backward is None else self.backward + other.backward
        return Cost(self.macs + other.macs, self.memory + other.memory, backward)


@dataclass(frozen=True)
class Complexity:
    """The two halves of a layer: what is done to the input, and what is done to the parameters."""

    input: Cost
    parameters: Cost


def parse(text: str) -> sympy.Expr:
    """A formula of `published/complexity.csv`, in the symbols of this module and the shorthands C, M, P."""
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
    """The number at given sizes, e.g. `evaluate(C, b=256, s=32, c=64, k=3)`; logarithms of FFTs are rounded once, at the end.

    Raises `ValueError` if a symbol of the expression is not given.
    """
    return round(evaluate_unrounded(expression, **values))


def evaluate_unrounded(expression: sympy.Expr, **values: int) -> float:
    """The same, to be rounded after it was added to others: a whole number, or a fraction where there are logarithms.

    Raises `ValueError` if a symbol of the expression is not given.
    """
    result = expression.subs({SYMBOLS[name]: value for name, value in values.items()})
    if result.free_symbols:
        raise ValueError(f"no value for {', '.join(sorted(map(str, result.free_symbols)))} in {expression}")
    return int(result) if result.is_Integer else float(result)
