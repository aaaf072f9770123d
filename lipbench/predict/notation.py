"""Fitted sums in the notation of Table 1: text with superscripts, and MathML."""

from __future__ import annotations

from collections.abc import Callable

from lipbench.predict.fitting import Sum, Term

SHORTHANDS = {"C": {"b": 1, "s": 2, "c": 2, "k": 2}, "M": {"b": 1, "s": 2, "c": 1}, "P": {"c": 2, "k": 2}}
"""One convolution, one activation, one kernel"""
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def text(found: Sum) -> str:
    """E.g. `2.00 C`, `4.00 c³ k⁴ − 4.00 c³ k³ + 1.00 c³ k²`, `2.50 s² c² log₂ s`; `0` of no terms."""
    return _joined(found, lambda term: " ".join([_number(term), *_symbols(term)]), " {} ")


def _joined(found: Sum, write: Callable[[Term], str], operator: str) -> str:
    """All terms, the sign of each before its absolute value; no sign before a positive first one."""
    written = ""
    for term in found.terms:
        sign = "−" if term.coefficient < 0 else "+" if written else ""
        written += (operator.format(sign) if written else sign) + write(term)
    return written or "0"


def _number(term: Term) -> str:
    return f"{float(abs(term.coefficient)):.2f}"


def _split(term: Term) -> tuple[str, dict[str, int]]:
    """The shorthand that Table 1 would print, "" if none, and the powers beside it."""
    powers = term.exponents
    for name, shorthand in SHORTHANDS.items():
        rest = {symbol: exponent for symbol, exponent in powers.items() if symbol not in shorthand}
        # C and M times iterations; P by itself.
        if {**shorthand, **rest} == powers and not term.logs and not set(rest) - ({"t"} if name != "P" else set()):
            return name, rest
    return "", powers


def _symbols(term: Term) -> list[str]:
    shorthand, powers = _split(term)
    written = [symbol + (str(exponent).translate(_SUPERSCRIPTS) if exponent > 1 else "") for symbol, exponent in powers.items()]
    return [*([shorthand] if shorthand else []), *written, *(f"log₂ {symbol}" for symbol in term.logs)]


def mathml(found: Sum) -> str:
    """The same as presentation MathML, one `mrow`."""
    return f"<mrow>{_joined(found, _term_mathml, '<mo>{}</mo>')}</mrow>" if found.terms else "<mrow><mn>0</mn></mrow>"


def _term_mathml(term: Term) -> str:
    shorthand, powers = _split(term)
    factors = [f"<mi>{shorthand}</mi>"] if shorthand else []
    for symbol, exponent in powers.items():
        name = f"<mi>{symbol}</mi>"
        factors.append(f"<msup>{name}<mn>{exponent}</mn></msup>" if exponent > 1 else name)
    factors += [f"<msub><mi>log</mi><mn>2</mn></msub><mo>&#8289;</mo><mi>{symbol}</mi>" for symbol in term.logs]
    return f"<mn>{_number(term)}</mn>" + "".join(f"<mo>&#8290;</mo>{factor}" for factor in factors)
