"""Tables of theory: the methods, Table 1 and the exact costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import sympy

from lipbench import notation, registry, theory
from lipbench.cases import PAPER
from lipbench.layers.base import Method
from lipbench.theory import HALVES, QUANTITIES

LEGEND = (
    f"{notation.LEGEND}.",
    "published: leading terms, a complex number counts as one; exact: real MACs and real elements of this code in training.",
)
RECOMPUTED = "recomputed: with --recompute on, the MACs that the backward pass repeats, and the elements that are kept for it."


def methods_table() -> pd.DataFrame:
    """One row per method: name, title, source, claims, and numbers of iterations."""
    columns = ["method", "title", "source", "linear", "orthogonal", "lipschitz", "implementations", "iterations"]
    rows = [
        (name, method.title, method.source, method.linear, method.orthogonal, method.lipschitz,
         ", ".join(method.implementations), _iterations(method))
        for name, method in registry.methods().items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _iterations(method: Method) -> str:
    """Numbers of iterations, e.g. "t = 20", or "t1 = 5, t2 = 1; in evaluation t1 = 12, t2 = 0"; "" if there are none."""
    training, evaluation = (
        ", ".join(f"{symbol} = {count}" for symbol, count in counts.items())
        for counts in (method.iterations, method.evaluation_iterations)
    )
    return "; in evaluation ".join(filter(None, (training, evaluation)))


def complexity_table() -> pd.DataFrame:
    """One row per method, half and quantity: published leading terms and exact count, as text and MathML, and exponents.

    `recomputed` has the MACs that the backward pass repeats with recomputation, and the elements that are kept then.

    The exponents are those of the published formula, or of the exact one where none was published. Texts are "" where there
    is no formula.
    """
    rows = [_complexity_row(name, method, half, quantity)
            for name, method in registry.methods().items() for half in HALVES for quantity in QUANTITIES]  # fmt: skip
    return pd.DataFrame(rows)


def _complexity_row(name: str, method: Method, half: str, quantity: str) -> dict[str, object]:
    published = None if method.published is None else getattr(getattr(method.published, half), quantity)
    exact, again = _exact(method, half, quantity), _recomputed(method, half, quantity)
    leading = exact if published is None else published
    return {
        "method": name, "title": method.title, "half": half, "quantity": quantity,
        "operations": method.published_operations[HALVES.index(half)],
        "published": "" if published is None else notation.csv(published),
        "published_mathml": "" if published is None else notation.mathml(notation.shortened(published)),
        "exact": "" if exact is None else notation.plain(exact),
        "exact_mathml": "" if exact is None else notation.mathml(exact),
        "recomputed": "" if again is None else notation.plain(again),
        "recomputed_mathml": "" if again is None else notation.mathml(again),
        **{f"exponent_{symbol}": math.nan if leading is None else theory.exponent(leading, theory.SYMBOLS[symbol])
           for symbol in "cksb"},
    }  # fmt: skip


def _exact(method: Method, half: str, quantity: str) -> sympy.Expr | None:
    """The exact cost of the `paper` implementation; None where it is unknown."""
    exact = method.implementations[PAPER].exact
    return None if exact is None else sympy.sympify(getattr(getattr(exact, half), quantity))


def _recomputed(method: Method, half: str, quantity: str) -> sympy.Expr | None:
    """Of the `paper` implementation: MACs that the backward pass repeats, or the elements that are kept for it then."""
    costs = [method.costs(PAPER, recompute=again) for again in (False, True)]
    usual, again = (None if one is None else getattr(one, half) for one in costs)
    if usual is None or again is None or usual.backward is None:
        return None
    return sympy.sympify(again.memory if quantity == "memory" else again.backward - usual.backward)


def readable(table: pd.DataFrame, recompute: Sequence[bool] = (False,)) -> pd.DataFrame:
    """`complexity_table` for a terminal: exact costs without and with recomputation, as asked."""
    printed = table.assign(published=table["published"].map(notation.text), exact=table["exact"].map(notation.text))
    printed["recomputed"] = table["recomputed"].map(notation.text)
    asked = ["recomputed" if one else "exact" for one in recompute]
    return printed[["title", "half", "quantity", "operations", "published", *asked]]


def published_layout(table: pd.DataFrame) -> pd.DataFrame:
    """`complexity_table` with one row per method, in the layout of `published/complexity.csv`, followed by exact costs.

    The last columns are those with recomputation: the MACs that the backward pass repeats, and the elements kept.
    """
    return pd.DataFrame([dict(_layout(rows)) for _, rows in table.groupby("method", sort=False)])


def _layout(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    cells = {(row["half"], row["quantity"]): row for _, row in rows.iterrows()}
    yield "layer", rows["title"].iloc[0]
    for kind in ("published", "exact", "recomputed"):
        for half, short in zip(HALVES, ("input", "parameter")):
            if kind == "published":
                yield f"{short}_operations", cells[half, "macs"]["operations"]
            prefix = "" if kind == "published" else f"{kind}_"
            yield f"{prefix}{short}_macs", cells[half, "macs"][kind]
            yield f"{prefix}{short}_memory_elements", cells[half, "memory"][kind]
