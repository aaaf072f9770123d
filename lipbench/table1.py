"""Theory for reading: Table 1 and the exact costs as text, as MathML and as the numbers of one case and phase."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping

import pandas as pd
import sympy

from lipbench import networks, registry, theory
from lipbench.cases import Case, LayerSpec
from lipbench.layers.base import Method
from lipbench.theory import Complexity

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
    exact = sympy.sympify(getattr(getattr(method.exact, half), quantity))
    short = None if published is None else shortened(published)
    leading = exact if published is None else published
    return {
        "method": name, "title": method.title, "half": half, "quantity": quantity,
        "operations": method.published_operations[HALVES.index(half)],
        "published": "" if short is None else text(short), "published_mathml": "" if short is None else mathml(short),
        "exact": str(exact).replace("**", "^"), "exact_mathml": mathml(exact),
        **{f"exponent_{symbol}": theory.exponent(leading, theory.SYMBOLS[symbol]) for symbol in "cksb"},
    }  # fmt: skip


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


# ---------------------------------------------------------------------------------------------------------------- numbers


def expected(case: Case, phase: str) -> dict[str, float]:
    """What theory says of one phase of a case; NaN where it says nothing.

    `theory_*` are exact, of the `paper` implementation; `published_*` are the leading terms of Table 1, whose complex numbers
    count as one. MACs are of forward, parametrize and inference, exact ones also of backward and of step (an update has
    none); elements are those kept for the backward pass, of forward and step. A network has the sum of its layers' MACs; what
    its activations keep is in no formula, so its elements are NaN.
    """
    nothing = dict.fromkeys(("theory_macs", "theory_memory_elements", "published_macs", "published_memory_elements"), math.nan)
    method = registry.methods().get(case.spec.method)
    if method is None:
        return nothing
    found: dict[str, float] = {}
    if case.spec.implementation == "paper":
        found |= _numbers("theory", case, phase, method, method.exact)
    if method.published is not None:
        found |= _numbers("published", case, phase, method, method.published)
    return {**nothing, **found}


_MAC_HALVES = {"forward": HALVES, "backward": HALVES, "step": HALVES, "parametrize": ("parameters",), "inference": ("input",)}
"""Evaluation may find its parameters in another way than training, so that no formula is known for its first call."""
_MAC_PASSES = {"backward": ("backward",), "step": ("macs", "backward")}
"""which fields of a `Cost` a phase is made of, where not of the forward pass alone"""
_MEMORY_PHASES = ("forward", "step")


def _numbers(convention: str, case: Case, phase: str, method: Method, complexity: Complexity) -> dict[str, float]:
    iterations = {**method.iterations, **(method.evaluation_iterations if phase == "inference" else {})}
    found: dict[str, float] = {}
    terms = [
        (getattr(getattr(layer, half), name), sizes)
        for layer, sizes in _layers(case, method, complexity)
        for half in _MAC_HALVES.get(phase, ())
        for name in _MAC_PASSES.get(phase, ("macs",))
    ]
    if terms and all(expression is not None for expression, _ in terms):
        found[f"{convention}_macs"] = round(math.fsum(_evaluate(expression, sizes, iterations) for expression, sizes in terms))
    if phase in _MEMORY_PHASES and isinstance(case.spec, LayerSpec):
        elements = complexity.input.memory + complexity.parameters.memory
        found[f"{convention}_memory_elements"] = round(_evaluate(elements, _sizes(case, case.spec), iterations))
    return found


def _evaluate(expression: sympy.Expr, sizes: Mapping[str, int], iterations: Mapping[str, int]) -> float:
    return _evaluate_once(sympy.sympify(expression), tuple({**sizes, **iterations}.items()))


@functools.lru_cache(maxsize=4096)  # a network repeats its layers, and a run its cases
def _evaluate_once(expression: sympy.Expr, values: tuple[tuple[str, int], ...]) -> float:
    return theory.evaluate_unrounded(expression, **dict(values))


def _layers(case: Case, method: Method, complexity: Complexity) -> Iterator[tuple[Complexity, dict[str, int]]]:
    """The layers of a case: whose formulas, and at which sizes."""
    spec = case.spec
    if isinstance(spec, LayerSpec):
        yield complexity, _sizes(case, spec)
        return
    for channels, image_size, kernel_size in networks.convolution_shapes(spec):
        yield complexity, {"b": case.batch_size, "c": channels, "s": image_size, "k": kernel_size}
    yield _head(method, complexity), {"b": case.batch_size, "c": networks.head_features(spec), "s": 1, "k": 1}


def _head(method: Method, complexity: Complexity) -> Complexity:
    """Costs of a network's head: of its own linear layer where the method has one, else of its 1 × 1 convolution.

    Table 1 has no row for linear layers; their exact cost serves for both conventions, being real numbers throughout.
    """
    return method.head.exact if method.head is not None else complexity


def _sizes(case: Case, spec: LayerSpec) -> dict[str, int]:
    return {"b": case.batch_size, "c": spec.channels, "s": spec.image_size, "k": spec.kernel_size}


def leading_exponent(method_name: str, quantity: str, phase: str) -> float:
    """Exponent in c of Table 1's formula for `macs` or `memory`: of one half in parametrize and inference, of both elsewhere.

    A backward pass and a training step cost a constant times the forward pass. NaN for a method that Table 1 does not have.
    """
    method = registry.methods().get(method_name)
    if method is None or method.published is None:
        return math.nan
    halves = HALVES if phase not in ("parametrize", "inference") else _MAC_HALVES[phase]
    total = sum((getattr(getattr(method.published, half), quantity) for half in halves), sympy.Integer(0))
    return float(theory.exponent(total, theory.c))
