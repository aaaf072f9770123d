"""Cost formulas of any layer, fitted to counts: a row in the form of Table 1 for any `nn.Module`.

A training forward pass on fake tensors is counted at a few sizes: real MACs, and real elements kept for the backward pass.
Nothing is computed and nothing is timed. The slope in the batch size is the input half, the intercept the parameter half; a sum
of monomials is fitted to each.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import sympy

from lipbench import errors, external, notation, registry, theory
from lipbench.cases import LayerSpec
from lipbench.errors import LipbenchError
from lipbench.prediction.counting import OPTIONS, Counter, plan
from lipbench.prediction.halves import Found, Half, fit_half, residual_of, whole_batch
from lipbench.theory import HALVES, QUANTITIES

LEGEND = (
    f"{notation.LEGEND}, n = s + k − 1.",
    "Real MACs (a complex one is 4; products with padding count) and real elements kept for the backward pass (a complex one",
    "is 2) of one training forward pass; by default at even s and c. residual: largest relative error at sizes not fitted.",
    "“+ ?” marks a lower bound: the operations in brackets have no formula. Where no sum fits to 1 %, counts stand instead.",
)
ACCEPTED = 0.01
"""largest residual of a formula that is shown"""
UNSEEN = "tensors kept outside autograd"


@dataclass(frozen=True)
class Fitted:
    """One half of one quantity of a layer."""

    method: str
    title: str
    half: str
    quantity: str
    sum: sympy.Expr | None
    """of monomials with rational coefficients; None where no sum fits"""
    at_kernel_1: sympy.Expr | None
    """for 1 × 1 kernels, where `sum` holds only for larger ones"""
    residual: float
    """largest relative error at held-out sizes; NaN where there were none"""
    points: int
    """number of held-out sizes"""
    notes: tuple[str, ...]
    uncounted: tuple[str, ...] = ()
    """what is not part of the counts; then the sum is a lower bound"""
    counts: tuple[Mapping[str, float], ...] = ()
    """where no sum fits: sizes by symbol, and the `count` there"""

    @property
    def note(self) -> str:
        return "; ".join(self.notes)

    @property
    def text(self) -> str:
        known = _counts_text(self.counts) if self.sum is None else notation.sum_text(self.sum)
        if not self.uncounted:
            return known
        return f"{'' if known == '0' else f'{known} + '}? ({', '.join(self.uncounted)})"

    @property
    def leading(self) -> str:
        if self.sum is None:
            return NO_FORMULA
        known = notation.sum_text(theory.leading(self.sum))
        return known if not self.uncounted else "?" if known == "0" else f"≥ {known}"

    @property
    def mathml(self) -> str:
        """The sum as MathML; "" where a sum alone would not tell everything."""
        return "" if self.sum is None or self.uncounted else notation.sum_mathml(self.sum)


NO_FORMULA = "no formula found"


def _counts_text(counts: Sequence[Mapping[str, float]]) -> str:
    """Counts as a line: the first with all sizes, the others with the size in which they differ from it."""
    first = counts[0]
    lines = []
    for one in counts:
        sizes = [f"{symbol} = {size:g}" for symbol, size in one.items()
                 if symbol != "count" and (one is first or size != first[symbol])]  # fmt: skip
        lines.append(f"{one['count']:.6g} at {', '.join(sizes)}")
    return f"{NO_FORMULA}: {'; '.join(lines)}"


# ------------------------------------------------------------------------------------------------------------- the fits


@functools.lru_cache(maxsize=64)
def fit_layer(method: str, given: tuple[tuple[str, tuple[int, ...]], ...] = ()) -> tuple[Fitted, ...]:
    """Fit the four formulas of a layer: MACs and memory of its input and its parameter half.

    `method` is a name of the registry or external; `given` are values for b, s, c, k in place of `DEFAULTS`.
    The search for a sum in n also uses other image sizes than those given. Raises `LipbenchError` for a layer that cannot run
    on fake tensors, or that accepts too few of the sizes.
    """
    title = registry.title(method)
    registry.check_name(method)
    for k in dict(given).get("k", ()):
        LayerSpec(method, channels=1, image_size=1, kernel_size=k)  # raises for an even size, which no layer supports
    counter = Counter(method)
    chosen = plan(counter, dict(given))
    halves = [Half(counter, chosen, half, quantity) for half, quantity in itertools.product(HALVES, QUANTITIES)]
    fits = [fit_half(half) for half in halves]
    rounded = any(found.whole.has(sympy.log) for found in fits)
    return tuple(_fitted(counter, title, half, found, rounded) for half, found in zip(halves, fits))


def _fitted(counter: Counter, title: str, half: Half, found: Found, rounded: bool) -> Fitted:
    residual, points = residual_of(half, found, rounded)
    whole, at_kernel_1 = found.whole, found.at_kernel_1
    if half.half == "input":
        whole, at_kernel_1 = whole_batch(whole), None if at_kernel_1 is None else whole_batch(at_kernel_1)
    uncounted = counter.uncounted(half.half) if half.quantity == "macs" else (UNSEEN,) if counter.keeps_unseen else ()
    row = Fitted(counter.method, title, half.half, half.quantity, whole, at_kernel_1, residual, points, (), uncounted)
    notes = (found.note, *_notes(half, uncounted), "" if points else "no size was left to validate the fit")
    if residual > ACCEPTED:
        notes = (f"the nearest sum is off by {100 * residual:.3g} %", *notes[1:])
        row = replace(row, sum=None, at_kernel_1=None, counts=tuple(half.examples()))
    return replace(row, notes=tuple(note for note in notes if note))


def _notes(half: Half, uncounted: Sequence[str]) -> Iterator[str]:
    if uncounted:
        yield f"not counted: {', '.join(uncounted)}"
    if not half.is_line():
        yield "not linear in the batch size; the halves hold only between the two smallest batch sizes"
    constant = [f"{symbol} = {values[0]}" for symbol, values in half.plan.axes.items() if len(values) == 1]
    if constant:
        yield f"at {', '.join(constant)} only"
    yield from half.plan.left_out


# ---------------------------------------------------------------------------------------------------------------- tables

COLUMNS = ["method", "title", "half", "quantity", "fitted", "fitted_mathml", "residual", "note"]
Row = tuple[str, str, str, str, str, str, float, str]


def fitted_table(methods: Sequence[str]) -> pd.DataFrame:
    """One row per method, half and quantity; for a layer that cannot be counted, a reason as note and no formulas."""
    rows = [row for method in methods for row in table_rows(method)]
    return pd.DataFrame(rows, columns=COLUMNS)


def table_rows(method: str) -> list[Row]:
    """The rows of a method in `COLUMNS`, counted now."""
    try:
        return fitted_rows(fit_layer(method))
    except LipbenchError as error:
        return unknown_rows(method, str(error))


def fitted_rows(found: Sequence[Fitted]) -> list[Row]:
    """Fitted formulas as rows in `COLUMNS`."""
    return [(one.method, one.title, one.half, one.quantity, one.text, one.mathml, one.residual, one.note) for one in found]


def unknown_rows(method: str, why: str) -> list[Row]:
    """Rows in `COLUMNS` without formulas, for a layer that cannot be counted."""
    title = external.title(method)
    return [(method, title, half, quantity, "", "", math.nan, why) for half, quantity in itertools.product(HALVES, QUANTITIES)]


def given(sizes: Mapping[str, Sequence[int] | None]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The requested sizes in the form that `fit_layer` takes. Raises `LipbenchError` for a size below 1."""
    chosen = tuple((symbol, tuple(sorted(values))) for symbol, values in sizes.items() if values)
    for symbol, values in chosen:
        if values[0] < 1:
            raise errors.not_positive(OPTIONS[symbol], values[0])
    return chosen


def as_table(rows: Sequence[Fitted]) -> pd.DataFrame:
    """The formulas as a table for a terminal."""
    found = [(one.title, one.half, one.quantity, one.leading, one.text, _percent(one.residual)) for one in rows]
    return pd.DataFrame(found, columns=["layer", "half", "quantity", "leading", "counted", "residual"])


def _percent(residual: float) -> str:
    if math.isnan(residual):
        return "?"
    if residual > ACCEPTED:
        return "> 1 %"
    return "0" if residual == 0 else "< 0.1 %" if residual < 1e-3 else f"{100 * residual:.1f} %"


def remarks(rows: Sequence[Fitted]) -> list[str]:
    """The notes of rows with a formula, one line each; a note that several rows of a layer share is given once."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in (row for row in rows if row.sum is not None):
        for note in one.notes:
            found.setdefault((one.title, note), []).append(f"{one.half} {one.quantity}")
    return [f"{title}, {', '.join(where)}: {note}" if len(where) < len(HALVES) * len(QUANTITIES) else f"{title}: {note}"
            for (title, note), where in found.items()]  # fmt: skip


def problems(rows: Sequence[Fitted]) -> list[str]:
    """One line for each row without a formula."""
    return [f"{one.title}, {one.half} {one.quantity}: {NO_FORMULA}; {one.note}" for one in rows if one.sum is None]


def as_json(rows: Sequence[Fitted]) -> list[dict[str, object]]:
    """Plain data for other programs: each row as from `write`, with its formula as text and term by term."""
    return [
        {
            **write(one), "text": one.text, "leading": one.leading, "terms": [] if one.sum is None else _plain_terms(one.sum),
            "terms_at_kernel_1": None if one.at_kernel_1 is None else _plain_terms(one.at_kernel_1), "note": one.note,
        }
        for one in rows
    ]  # fmt: skip


def _plain_terms(expression: sympy.Expr) -> list[dict[str, object]]:
    symbols = "bsckt" + ("n" if expression.has(theory.n) else "")
    return [
        {
            "coefficient": float(term.coefficient), "fraction": str(term.coefficient),
            "exponents": {symbol: term.powers.get(symbol, 0) for symbol in symbols}, "log": list(term.logs),
        }
        for term in theory.monomials(expression)
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- storage


def write(row: Fitted) -> dict[str, object]:
    """Convert a row to plain data for `read`: expressions as text, a NaN residual as None."""
    return {
        "method": row.method, "title": row.title, "half": row.half, "quantity": row.quantity,
        "sum": None if row.sum is None else str(row.sum),
        "sum_at_kernel_1": None if row.at_kernel_1 is None else str(row.at_kernel_1),
        "residual": None if math.isnan(row.residual) else row.residual, "points": row.points, "notes": list(row.notes),
        "uncounted": list(row.uncounted), "counts": [dict(one) for one in row.counts],
    }  # fmt: skip


def read(row: Mapping[str, Any]) -> Fitted:
    """Convert data from `write` or `as_json` back to a row. Expressions are evaluated, so use it for trusted text only."""
    at_kernel_1 = None if row["sum_at_kernel_1"] is None else theory.parse(row["sum_at_kernel_1"])
    residual = math.nan if row["residual"] is None else row["residual"]
    whole = None if row["sum"] is None else theory.parse(row["sum"])
    return Fitted(
        row["method"], row["title"], row["half"], row["quantity"], whole, at_kernel_1, residual,
        row["points"], tuple(row["notes"]), tuple(row.get("uncounted", ())), tuple(row.get("counts", ())),
    )  # fmt: skip
