"""Formulas in print: as text with superscripts, as MathML, and in the notation of the published table.

A known formula is printed unchanged. A sum that was fitted to counts is printed with decimal coefficients, the largest term
first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import sympy

from lipbench import theory
from lipbench.theory import Monomial

LEGEND = "C = b s² c² k², M = b s² c, P = c² k²; batch b, channels c, image s × s, kernel k × k, iterations t"
"""meaning of the symbols; n occurs only in fitted sums"""
SHORTHANDS = {"C": theory.C, "M": theory.M, "P": theory.P}
"""C: MACs of one convolution; M: elements of one activation; P: elements of one kernel"""
_ORDER = (*SHORTHANDS, *theory.SYMBOLS)
_SIZES = {theory.b, theory.s, theory.n, theory.c, theory.k}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def superscript(number: int | str) -> str:
    """A whole number in superscript digits."""
    return str(number).translate(_SUPERSCRIPTS)


def shortened(expression: sympy.Expr) -> sympy.Expr:
    """The sum with C, M or P in the terms that Table 1 prints so: C and M times factors without sizes, P times a number."""
    return sympy.Add(*(_shortened_term(term) for term in sympy.Add.make_args(sympy.expand(expression))))


def _shortened_term(term: sympy.Expr) -> sympy.Expr:
    for name, shorthand in SHORTHANDS.items():
        factor = term / shorthand
        if not factor.free_symbols & _SIZES and (name != "P" or factor.is_number):
            return factor * sympy.Symbol(name)
    return term


# ----------------------------------------------------------------------------------------------------------- known formulas


def csv(expression: sympy.Expr) -> str:
    """A polynomial as `published/complexity.csv` has it, with its order of symbols and terms; `theory.parse` reads it."""
    terms = [_term_csv(term) for term in sorted(sympy.Add.make_args(shortened(expression)), key=_term_order)]
    return " + ".join(terms).replace("+ -", "- ")


def _term_order(term: sympy.Expr) -> tuple[bool, int, str]:
    is_short = bool({str(symbol) for symbol in term.free_symbols} & set(SHORTHANDS))
    return not is_short, theory.exponent(term, theory.k), str(term)


def _term_csv(term: sympy.Expr) -> str:
    coefficient, rest = term.as_coeff_Mul()
    factors = sorted(sympy.Mul.make_args(rest), key=_factor_order)
    written = "*".join(f"({factor})" if factor.is_Add else str(factor) for factor in factors).replace("**", "^")
    if coefficient == 1:
        return written
    return f"-{written}" if coefficient == -1 else str(coefficient) if rest == 1 else f"{coefficient}*{written}"


def _factor_order(factor: sympy.Expr) -> tuple[bool, int, str]:
    base = factor.as_base_exp()[0]
    name = str(base)
    return not base.is_Symbol, _ORDER.index(name) if name in _ORDER else 0, name


def plain(expression: sympy.Expr) -> str:
    """A formula on one line, in sympy's order; `theory.parse` reads it."""
    return str(expression).replace("**", "^")


def text(formula: str) -> str:
    """A result of `csv` or `plain` in readable form: `b*s^2*(k - 1)` as `b s² (k − 1)`."""
    raised = re.sub(r"\^(\d+)", lambda found: superscript(found[1]), formula)
    return raised.replace("*", " ").replace("-", "−")


def mathml(expression: sympy.Expr) -> str:
    """A formula as presentation MathML; if it differs for k = 1, only the branch for k > 1, marked "k > 1"."""
    general = expression.replace(sympy.Piecewise, lambda first, *others: first[0])
    written = str(sympy.mathml(general, printer="presentation"))
    return written if general == expression else f"<mrow>{written}<mtext>, k > 1</mtext></mrow>".replace(" > ", " &gt; ")


# -------------------------------------------------------------------------------------------------------------- fitted sums


def sum_text(expression: sympy.Expr) -> str:
    """A sum of monomials as text, e.g. `2.00 C`, `4.00 c³ k⁴ − 4.00 c³ k³ + 1.00 c³ k²`, `2.50 s² c² log₂ s`; `0` for no terms.

    Raises `ValueError` for any other expression.
    """
    return _joined(expression, _monomial_text, " {} ") or "0"


def sum_mathml(expression: sympy.Expr) -> str:
    """A sum of monomials as presentation MathML, one `mrow`. Raises `ValueError` for any other expression."""
    return f"<mrow>{_joined(expression, _monomial_mathml, '<mo>{}</mo>') or '<mn>0</mn>'}</mrow>"


def _joined(expression: sympy.Expr, write: Callable[[Monomial], str], operator: str) -> str:
    """All terms, each with its sign before its absolute value; a positive first term has no sign."""
    written = ""
    for term in theory.monomials(expression):
        sign = "−" if term.coefficient < 0 else "+" if written else ""
        written += (operator.format(sign) if written else sign) + write(term)
    return written


def _monomial_text(term: Monomial) -> str:
    powers = (name + (superscript(exponent) if exponent > 1 else "") for name, exponent in _short_powers(term).items())
    return " ".join([_decimal(term), *powers, *(f"log₂ {name}" for name in term.logs)])


def _monomial_mathml(term: Monomial) -> str:
    factors = [f"<msup><mi>{name}</mi><mn>{exponent}</mn></msup>" if exponent > 1 else f"<mi>{name}</mi>"
               for name, exponent in _short_powers(term).items()]  # fmt: skip
    factors += [f"<msub><mi>log</mi><mn>2</mn></msub><mo>&#8289;</mo><mi>{name}</mi>" for name in term.logs]
    return f"<mn>{_decimal(term)}</mn>" + "".join(f"<mo>&#8290;</mo>{factor}" for factor in factors)


def _decimal(term: Monomial) -> str:
    return f"{float(abs(term.coefficient)):.2f}"


def _short_powers(term: Monomial) -> dict[str, int]:
    """Exponents by symbol, after `shortened` has put in C, M or P."""
    factors = _shortened_term(theory.monomial(Fraction(1), term.powers, term.logs)).as_powers_dict()
    named = {str(factor): int(exponent) for factor, exponent in factors.items() if factor.is_Symbol}
    return {name: named[name] for name in _ORDER if name in named}
