"""Fitted formulas as plain data, for records: a record may come from a stranger, so that no text of it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, cast

import sympy

from lipbench import external, theory
from lipbench.prediction.complexity import Fitted
from lipbench.quantities import Formula, Term

MOST_TERMS = 64
"""of a formula that is read; `fitting` finds at most 36"""


def as_data(rows: Iterable[Fitted]) -> tuple[Formula, ...]:
    """Formulas as a record stores them, which `from_data` reads. Raises `ValueError` for a sum that is not one of monomials."""
    return tuple(
        Formula(
            cast(Any, row.half),
            cast(Any, row.quantity),
            _terms(row.sum),
            None if row.at_kernel_1 is None else _terms(row.at_kernel_1),
            None if math.isnan(row.residual) else row.residual,
            row.points,
            row.notes,
        )
        for row in rows
    )


def from_data(method: str, formulas: Sequence[Formula]) -> tuple[Fitted, ...]:
    """The rows of an external layer. Raises `ValueError` for a formula with more than `MOST_TERMS` terms."""
    return tuple(
        Fitted(
            method, external.title(method), one.half, one.quantity, _sum(one.terms),
            None if one.terms_at_kernel_1 is None else _sum(one.terms_at_kernel_1),
            math.nan if one.residual is None else one.residual, one.points, one.notes,
        )
        for one in formulas
    )  # fmt: skip


def _terms(expression: sympy.Expr) -> tuple[Term, ...]:
    return tuple(
        Term(one.coefficient.numerator, one.coefficient.denominator, cast(Any, one.powers), cast(Any, one.logs))
        for one in theory.monomials(expression)
    )


def _sum(terms: Sequence[Term]) -> sympy.Expr:
    if len(terms) > MOST_TERMS:
        raise ValueError(f"a formula of {len(terms)} terms")
    return sympy.Add(*(_monomial(term) for term in terms))


def _monomial(term: Term) -> sympy.Expr:
    powers = {str(symbol): exponent for symbol, exponent in term.exponents.items()}
    return theory.monomial(Fraction(term.numerator, term.denominator), powers, dict.fromkeys(term.logs))
