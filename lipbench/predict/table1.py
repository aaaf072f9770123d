"""Theory for reading: Table 1 and the exact costs as text, as MathML and as the numbers of one case and phase."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pandas as pd
import sympy

from lipbench import registry, theory
from lipbench.cases import PAPER
from lipbench.layers.base import Method

HALVES = ("input", "parameters")
QUANTITIES = ("macs", "memory")
_SHORTHANDS = {"C": theory.C, "M": theory.M, "P": theory.P}
_SYMBOL_ORDER = (*_SHORTHANDS, "b", "s", "c", "k", "t", "t1", "t2")
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_SIZES = {theory.b, theory.s, theory.c, theory.k}


# ---------------------------------------------------------------------------------------------------------------- reading


def shortened(expression: sympy.Expr) -> sympy.Expr:
    """The same sum with C, M or P in each term that Table 1 prints so: C and M times what has no sizes, P times a number."""
    return sympy.Add(*(_shortened_term(term) for term in sympy.Add.make_args(sympy.expand(expression))))


def _shortened_term(term: sympy.Expr) -> sympy.Expr:
    for name, shorthand in _SHORTHANDS.items():
        factor = term / shorthand
        if not factor.free_symbols & _SIZES and (name != "P" or factor.is_number):
            return factor * sympy.Symbol(name)
    return term


def text(expression: sympy.Expr) -> str:
    """A polynomial as `published/complexity.csv` writes it, in its order of symbols and terms; `theory.parse` reads it."""
    terms = [_term_text(term) for term in sorted(sympy.Add.make_args(expression), key=_term_order)]
    return " + ".join(terms).replace("+ -", "- ")


def _term_order(term: sympy.Expr) -> tuple[bool, int, str]:
    is_short = bool({str(symbol) for symbol in term.free_symbols} & set(_SHORTHANDS))
    return not is_short, theory.exponent(term, theory.k), str(term)


def _term_text(term: sympy.Expr) -> str:
    coefficient, rest = term.as_coeff_Mul()
    factors = sorted(sympy.Mul.make_args(rest), key=_factor_order)
    written = "*".join(f"({factor})" if factor.is_Add else str(factor) for factor in factors).replace("**", "^")
    if coefficient == 1:
        return written
    return f"-{written}" if coefficient == -1 else str(coefficient) if rest == 1 else f"{coefficient}*{written}"


def _factor_order(factor: sympy.Expr) -> tuple[bool, int, str]:
    base = factor.as_base_exp()[0]
    name = str(base)
    return not base.is_Symbol, _SYMBOL_ORDER.index(name) if name in _SYMBOL_ORDER else 0, name


def mathml(expression: sympy.Expr) -> str:
    """A formula as presentation MathML; of one that differs for k = 1, the branch for k > 1, which says so."""
    general = expression.replace(sympy.Piecewise, lambda first, *others: first[0])
    written = str(sympy.mathml(general, printer="presentation"))
    return written if general == expression else f"<mrow>{written}<mtext>, k > 1</mtext></mrow>".replace(" > ", " &gt; ")


def methods_table() -> pd.DataFrame:
    """One row per method: name, title, source, what it claims, and how often it iterates."""
    columns = ["method", "title", "source", "linear", "orthogonal", "lipschitz", "implementations", "iterations"]
    rows = [
        (name, method.title, method.source, method.linear, method.orthogonal, method.lipschitz,
         ", ".join(method.implementations), _iterations(method))
        for name, method in registry.methods().items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _iterations(method: Method) -> str:
    """E.g. "t = 20", or "t1 = 5, t2 = 1; in evaluation t1 = 12, t2 = 0"; "" where there are none."""
    training, evaluation = (
        ", ".join(f"{symbol} = {count}" for symbol, count in counts.items())
        for counts in (method.iterations, method.evaluation_iterations)
    )
    return "; in evaluation ".join(filter(None, (training, evaluation)))


def in_print(formula: str) -> str:
    """A formula of `complexity_table` for reading: `b*s^2*(k - 1)` as `b s² (k − 1)`."""
    raised = re.sub(r"\^(\d+)", lambda found: found[1].translate(_SUPERSCRIPTS), formula)
    return raised.replace("*", " ").replace("-", "−")


def complexity_table() -> pd.DataFrame:
    """One row per method, half and quantity: published leading terms and exact count, as text and MathML, and exponents.

    The exponents are those of the published formula, of the exact one where nothing was published. Texts are "" where there
    is no formula.
    """
    rows = [_complexity_row(name, method, half, quantity)
            for name, method in registry.methods().items() for half in HALVES for quantity in QUANTITIES]  # fmt: skip
    return pd.DataFrame(rows)


def _complexity_row(name: str, method: Method, half: str, quantity: str) -> dict[str, object]:
    published = None if method.published is None else getattr(getattr(method.published, half), quantity)
    exact = _exact(method, half, quantity)
    short = None if published is None else shortened(published)
    leading = exact if published is None else published
    return {
        "method": name, "title": method.title, "half": half, "quantity": quantity,
        "operations": method.published_operations[HALVES.index(half)],
        "published": "" if short is None else text(short), "published_mathml": "" if short is None else mathml(short),
        "exact": "" if exact is None else str(exact).replace("**", "^"), "exact_mathml": "" if exact is None else mathml(exact),
        **{f"exponent_{symbol}": math.nan if leading is None else theory.exponent(leading, theory.SYMBOLS[symbol])
           for symbol in "cksb"},
    }  # fmt: skip


def _exact(method: Method, half: str, quantity: str) -> sympy.Expr | None:
    """Of the `paper` implementation; None where its costs are not known."""
    exact = method.implementations[PAPER].exact
    return None if exact is None else sympy.sympify(getattr(getattr(exact, half), quantity))


def published_layout(table: pd.DataFrame) -> pd.DataFrame:
    """`complexity_table` with one row per method, laid out as `published/complexity.csv`, exact costs after that."""
    return pd.DataFrame([dict(_layout(rows)) for _, rows in table.groupby("method", sort=False)])


def _layout(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    cells = {(row["half"], row["quantity"]): row for _, row in rows.iterrows()}
    yield "layer", rows["title"].iloc[0]
    for kind in ("published", "exact"):
        for half, short in zip(HALVES, ("input", "parameter")):
            if kind == "published":
                yield f"{short}_operations", cells[half, "macs"]["operations"]
            prefix = "" if kind == "published" else "exact_"
            yield f"{prefix}{short}_macs", cells[half, "macs"][kind]
            yield f"{prefix}{short}_memory_elements", cells[half, "memory"][kind]
