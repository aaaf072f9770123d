"""Measured against theory: the formula, its number, what was counted, and their ratio; and exponents in the channels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from lipbench_reports.cells import CONTENDED, COUNTS, RESIDUAL, Cell, Column, Table, alike, heads, mathml, table
from lipbench_reports.measurements import PHASE_TITLES, capitalized
from lipbench_reports.pairs import HALF
from lipbench_reports.prepared import CaseRows, Prepared
from lipbench_reports.tables import COMPLEXITY, EXPONENTS, as_text, typed, with_columns

AGREEMENT = 0.005
"""Counted and exact numbers that differ by more than this are marked; smaller differences come from rounded logarithms."""

ELEMENT_BYTES = {"float32": 4, "float64": 8}
HALVES = ("input", "parameters")


class Formulas:
    """The formulas in `complexity` as MathML, by method, half and quantity."""

    def __init__(self, complexity: pd.DataFrame) -> None:
        frame = with_columns(complexity, COMPLEXITY)
        keys = zip(frame["method"], frame["half"], frame["quantity"])
        self._published = dict(zip(keys, frame["published_mathml"]))
        self._exact = dict(zip(self._published, frame["exact_mathml"]))
        self._recomputed = dict(zip(self._published, frame["recomputed_mathml"]))

    def published(self, method: str, quantity: str, *halves: str) -> Markup | None:
        return mathml(*(self._published.get((method, half, quantity)) for half in halves))

    def exact(self, method: str, quantity: str, *halves: str, recomputed: bool = False) -> Markup | None:
        """Of a forward pass: recomputation changes what it keeps, not its multiply-accumulates."""
        known = self._recomputed if recomputed and quantity == "memory" else self._exact
        return mathml(*(known.get((method, half, quantity)) for half in halves))


@dataclass(frozen=True)
class Compared:
    """A counted number and what theory gives for it."""

    series: str
    shape: str
    method: str
    half: str
    halves: tuple[str, ...]
    """the halves whose formulas are summed for this number"""
    leading: float
    exact: float
    counted: float


def macs(ready: Prepared, formulas: Formulas, caption: str) -> Table | None:
    """Multiply-accumulates of a training forward pass by half, or as a whole where a layer has no halves.

    None if none were counted.
    """
    columns = ["published_macs", "theory_macs", "macs"]
    found = []
    for case in _layers(ready):
        forward, parametrize = case.phase("forward"), case.phase("parametrize")
        if forward is None:
            continue
        key, shape, method = case.series, case.shape, str(forward["method"])
        whole = forward[columns].to_numpy(dtype=float)
        if parametrize is not None and parametrize[columns].notna().any():
            part = parametrize[columns].to_numpy(dtype=float)
            found.append(Compared(key, shape, method, "input", ("input",), *(whole - part)))
            found.append(Compared(key, shape, method, "parameters", ("parameters",), *part))
        else:
            found.append(Compared(key, shape, method, "both", HALVES, *whole))
    return _against(found, "macs", formulas, ready, caption)


def elements(ready: Prepared, formulas: Formulas, caption: str) -> Table | None:
    """Elements kept for the backward pass: counted bytes divided by the bytes of one number. None if none were counted."""
    found, inputs, parameters = [], [], []
    for case in _layers(ready):
        training = case.rows[case.rows["phase"].isin(["forward", "step"])].sort_values("phase")
        if training.empty or training["precision"].iloc[0] in HALF:  # autocast keeps numbers of two sizes
            continue
        size = ELEMENT_BYTES.get(str(training["dtype"].iloc[0]), math.nan)
        theory = (_first(training, "published_memory_elements"), _first(training, "theory_memory_elements"))
        counted = _first(training, "saved_memory_bytes") / size
        found.append(Compared(case.series, case.shape, str(training["method"].iloc[0]), "both", HALVES, *theory, counted))
        inputs.append(_first(training, "saved_input_half_bytes") / size)
        parameters.append(_first(training, "saved_parameter_half_bytes") / size)
    halves = {"Counted, input half": inputs, "Counted, parameter half": parameters}
    known = {title: values for title, values in halves.items() if any(math.isfinite(value) for value in values)}
    return _against(found, "memory", formulas, ready, caption, known)


def _layers(ready: Prepared) -> list[CaseRows]:
    """The cases of single layers; the formulas do not hold for a network."""
    return [case for case in ready.cases if case.rows["network"].iloc[0] == ""]


def _first(rows: pd.DataFrame, column: str) -> float:
    values = rows[column].dropna()
    return math.nan if values.empty else float(values.iloc[0])


def _against(
    found: Sequence[Compared],
    quantity: str,
    formulas: Formulas,
    ready: Prepared,
    caption: str,
    more: Mapping[str, Sequence[float]] | None = None,
) -> Table | None:
    """A table of formula, number, count and ratio, with all counts in one unit. None without counts."""
    if not any(math.isfinite(one.counted) for one in found):
        return None
    columns = heads([(one.series, one.shape) for one in found], ready.labels)
    if {one.half for one in found} != {"both"}:
        columns.append((Column("Half", numeric=False), [Cell(one.half, one.half) for one in found]))
    published = [formulas.published(one.method, quantity, *one.halves) for one in found]
    papers = {  # the formulas hold for no other implementation
        one.key: bool(one.columns.get("recomputed")) for one in ready.series if one.implementation == "paper"
    }
    exact = [
        formulas.exact(one.method, quantity, *one.halves, recomputed=papers[one.series]) if one.series in papers else None
        for one in found
    ]
    counts = {
        "Table\u00a01, number": [one.leading for one in found],
        "Exact, number": [one.exact for one in found],
        "Counted": [one.counted for one in found],
        **(more or {}),
    }
    leading, whole, counted, *halves = alike(counts, COUNTS)
    columns += [
        (Column("Table\u00a01", numeric=False, sortable=False), [Cell(math=formula) for formula in published]),
        leading, whole, counted,
        (Column("Counted ÷ exact"), [_agreement(one.counted, one.exact) for one in found]),
        *halves,
        # Last, because it may be too wide for the page; the columns to compare stay visible.
        (Column("Exact for this code", numeric=False, sortable=False), [Cell(math=formula) for formula in exact]),
    ]  # fmt: skip
    return table(caption, columns)


def _agreement(counted: float, exact: float) -> Cell:
    if exact == 0 and counted == 0:
        return Cell("1.000", 1.0)
    if not math.isfinite(counted) or not math.isfinite(exact) or exact == 0:
        return Cell()
    value = counted / exact
    return Cell(f"{value:.3f}", value, mark="" if abs(value - 1) <= AGREEMENT else RESIDUAL)


def iterations(ready: Prepared) -> str:
    """The inner iterations of the methods in this run: "LOT: t = 10; SOC: t₁ = 5, t₂ = 1"."""
    here = set(ready.rows["method"])
    named = zip(ready.methods["method"], ready.methods["title"], ready.methods["iterations"])
    return "; ".join(f"{title}: {re.sub(r't([12])', _lowered, as_text(text))}" for name, title, text in named
                     if name in here and as_text(text))  # fmt: skip


def _lowered(found: re.Match[str]) -> str:
    return "t" + "₁₂"[int(found[1]) - 1]


_CAPTIONS = {
    "MACs: forward": "Multiply-accumulates, forward",
    "saved memory": "Saved for backward",
    "peak memory: step": "Training peak",
}
_TIME = "time: "


def exponents(ready: Prepared) -> list[tuple[Table, bool]]:
    """One table per quantity, and whether there is a formula for it: fitted exponents in the channels beside the formulas'.

    The exponent of a time has its 95 % interval. A count has no error, so its exponent has the range of the slopes between
    neighbouring sizes instead. A fit through contended times is marked.
    """
    data = with_columns(ready.tables.exponents, ["title", *EXPONENTS])
    for name in EXPONENTS[EXPONENTS.index("exponent") :]:
        data[name] = typed(data[name], "float64")
    data["series"] = pd.Series(ready.keys_of(data), index=data.index, dtype=object)
    data = data[data["exponent"].notna()]
    contended = ready.rows[ready.rows["contended"]]
    doubtful = set(zip(contended["series"], _TIME + contended["phase"]))
    return [_growth(str(quantity), group, doubtful, ready) for quantity, group in data.groupby("quantity", sort=False)]


def _caption(quantity: str) -> str:
    """The name of a quantity, as the other tables write it."""
    phase = quantity.removeprefix(_TIME)
    return f"Time, {PHASE_TITLES.get(phase, phase)}" if phase != quantity else _CAPTIONS.get(quantity, capitalized(quantity))


def _growth(quantity: str, fits: pd.DataFrame, doubtful: set[tuple[str, str]], ready: Prepared) -> tuple[Table, bool]:
    keys = list(fits["series"])
    marks = [CONTENDED if (key, quantity) in doubtful else "" for key in keys]
    titles = [ready.labels.get(key, str(title)) for key, title in zip(keys, fits["title"])]
    is_timed = quantity.startswith(_TIME)
    spans = zip(fits["low"], fits["high"]) if is_timed else zip(fits["least_slope"], fits["greatest_slope"])
    columns = [
        (Column("Method", numeric=False), [Cell(title, title, series=key) for title, key in zip(titles, keys)]),
        (Column("Fitted"), [Cell(_slope(e), e, mark=mark) for e, mark in zip(fits["exponent"], marks)]),
        (Column("95 % interval" if is_timed else "Local slopes"), [_span(low, high) for low, high in spans]),
        (Column("Exact"), [_exponent(value) for value in fits["theory_exponent"]]),
        (Column("Table\u00a01"), [_exponent(value) for value in fits["leading_exponent"]]),
        (Column("Points"), [_exponent(value) for value in fits["points"]]),
    ]
    known = fits[["theory_exponent", "leading_exponent"]].notna().any(axis=None)
    kept = [column for column in columns if any(cell.text != "–" for cell in column[1])]
    caption = _caption(quantity)
    if fits["points"].nunique(dropna=False) == 1 and kept[-1][0].title == "Points":
        caption, kept = f"{caption} ({kept[-1][1][0].text} points)", kept[:-1]
    return table(caption, kept), bool(known)


def _span(low: float, high: float) -> Cell:
    if not math.isfinite(low + high):
        return Cell()
    return Cell(f"{_slope(low)} to {_slope(high)}", low)


def _slope(value: float) -> str:
    """A slope with two decimals, and without a sign if they are zero."""
    return f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")


def _exponent(value: float) -> Cell:
    """A cell with a whole number as it is, any other with two decimals."""
    if not math.isfinite(value):
        return Cell()
    return Cell((f"{value:.0f}" if value.is_integer() else f"{value:.2f}").replace("-", "−"), value)
