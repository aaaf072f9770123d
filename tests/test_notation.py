"""Formulas in print, and sums of monomials term by term."""

from __future__ import annotations

from fractions import Fraction
from xml.etree import ElementTree

import pytest
import sympy

from lipbench import notation, theory
from lipbench.theory import C, M, P, b, c, k, n, s, t

LOG_S = sympy.log(s, 2)
SUMS = {
    "0": sympy.Integer(0),
    "7.00": sympy.Integer(7),
    "1.00 C": C,
    "3.00 C t": 3 * C * t,
    "1.00 M t + 0.33 P": M * t + P / 3,
    "1.00 c² k² t": P * t,
    "−2.00 c + 1.00 k": k - 2 * c,
    "4.00 c³ k⁴ − 4.00 c³ k³ + 1.00 c³ k²": c**3 * k**2 * (2 * k - 1) ** 2,
    "2.50 b s² c² log₂ s": sympy.Rational(5, 2) * b * s**2 * c**2 * LOG_S,
    "2.00 n² c log₂ n log₂ c": 2 * n**2 * c * sympy.log(n, 2) * sympy.log(c, 2),
    "1.00 c + 2.00 s": 2 * s + c,  # equally large where terms are put in order
}


@pytest.mark.parametrize("text", SUMS)
def test_a_sum_in_print(text: str) -> None:
    expression = sympy.expand(SUMS[text])
    assert notation.sum_text(expression) == text
    markup = "".join(ElementTree.fromstring(notation.sum_mathml(expression)).itertext())
    assert markup.replace("\u2062", "").replace("\u2061", "") == _flat(text)
    assert theory.parse(str(expression)) == expression


def _flat(text: str) -> str:
    return text.translate(str.maketrans("⁰¹²³⁴₂", "012342")).replace(" ", "")


@pytest.mark.parametrize(
    "expression",
    [
        c * (k - 1),
        sympy.sqrt(c),
        1.5 * c,
        sympy.log(s),
        LOG_S**2,
        sympy.floor(c / 2),
        sympy.Symbol("c"),
        c + sympy.Piecewise((1, k > 1), (0, True)),
    ],
)
def test_what_is_no_sum_of_monomials_is_not_printed_as_one(expression: sympy.Expr) -> None:
    with pytest.raises(ValueError, match="not a monomial"):
        notation.sum_text(expression)


def test_a_monomial_is_taken_apart_and_put_together() -> None:
    term = 5 * s**2 * c * LOG_S / 2
    (found,) = theory.monomials(term)
    assert (found.coefficient, found.powers, found.logs) == (Fraction(5, 2), {"s": 2, "c": 1}, ("s",))
    assert theory.monomial(found.coefficient, found.powers, found.logs) == term


def test_the_leading_terms_are_those_that_none_outgrows() -> None:
    assert theory.leading(s**2 * c**2 + c * k**2) == s**2 * c**2  # since no kernel is larger than its image
    assert theory.leading(s**2 * c**2 + s * c**3) == s**2 * c**2 + s * c**3
    assert theory.leading(s**2 * c * LOG_S + s**2 * c**2) == s**2 * c**2
    assert theory.leading(n**2 + n) == s**2
    assert theory.leading(n**2 * sympy.log(n, 2) + n**2) == s**2 * LOG_S
    assert theory.leading(sympy.Integer(0)) == 0


def test_the_padded_image_is_computed_from_image_and_kernel() -> None:
    assert theory.evaluate(n**2, s=8, k=3) == 100
    assert theory.evaluate_unrounded(c / 3 + n, s=8, k=1, c=1) == Fraction(25, 3)
    assert theory.evaluate_unrounded(LOG_S, s=32) == 5
    with pytest.raises(ValueError, match="no value for k"):
        theory.evaluate(n, s=8)


def test_terms_are_shortened_only_where_nothing_of_the_sizes_is_left() -> None:
    assert notation.csv(3 * C + b * s**2 * c**2) == "3*C + b*s^2*c^2"
    assert notation.csv(P + s**2 * c) == "P + s^2*c"
    assert notation.csv(sympy.Rational(5, 2) * M + c**3 * k**4) == "5/2*M + c^3*k^4"
    assert notation.csv(C * 0) == "0"
