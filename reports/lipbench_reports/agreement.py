"""Tables that compare ways to find the same number: counted MACs, formulas, and peaks of memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from lipbench_reports.against_theory import AGREEMENT, Formulas
from lipbench_reports.cells import BYTES, COUNTS, RESIDUAL, Cell, Column, Table, alike, heads, mathml, table
from lipbench_reports.prepared import CaseRows, Prepared
from lipbench_reports.tables import FITTED, as_text, predicted_peaks, typed, with_columns

PEAK_AGREEMENT = 0.05
"""Predicted and measured peaks that differ by more than this are marked."""
_QUANTITIES = {"macs": "Multiply-accumulates", "memory": "Elements kept for the backward pass"}

_COUNTS_OF = {
    "PyTorch’s counter": "macs", "fvcore": "fvcore_macs", "Closed form": "theory_macs",
    "Counted as the paper does": "published_convention_macs", "Table\u00a01, leading terms": "published_macs",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- counts


def counts(ready: Prepared) -> Table | None:
    """MACs of the forward and the backward pass by PyTorch's counter, fvcore and the closed form; None without counts.

    These are real MACs. Two more columns follow the paper's convention: as counted, and the leading terms of Table 1.
    """
    rows = ready.rows
    passes = rows[rows["phase"].isin(["forward", "backward"]) & rows["macs"].notna()]
    if passes.empty:
        return None
    entries = passes.to_dict("records")
    columns = heads([(entry["series"], entry["shape"]) for entry in entries], ready.labels)
    *counted, published, leading = alike(
        {title: [entry[name] for entry in entries] for title, name in _COUNTS_OF.items()}, COUNTS
    )
    columns += [
        (Column("Pass", numeric=False), [Cell(entry["phase"], entry["phase"]) for entry in entries]),
        *counted,
        (Column("Largest difference"), [_difference(_complete(entry)) for entry in entries]),
        published, leading,
        (Column("Table\u00a01 ÷ counted"), [
            _quotient(entry["published_macs"], entry["published_convention_macs"]) for entry in entries
        ]),
    ]  # fmt: skip
    kept = [column for column in columns if any(cell.text != "–" for cell in column[1])]
    return table("Counts that agree", kept, list(_not_counted(entries, ready.labels)))


def _complete(entry: Mapping[Hashable, Any]) -> list[float]:
    """The counts that include all operations; a counter without a formula for some of them, such as our kernels, has none."""
    whole = {"macs": entry["macs_unsupported"], "fvcore_macs": entry["fvcore_unsupported"], "theory_macs": ""}
    return [entry[name] for name, missed in whole.items() if not missed]


def _difference(values: Sequence[float]) -> Cell:
    """The largest minus the smallest, relative to the largest; an empty cell for fewer than two numbers."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return Cell()
    largest = max(known)
    difference = 0.0 if largest == 0 else (largest - min(known)) / largest
    return Cell(_percent(difference), difference, mark=RESIDUAL if difference > AGREEMENT else "")


def _quotient(value: float, whole: float) -> Cell:
    if not math.isfinite(value) or not whole > 0:
        return Cell()
    return Cell(f"{value / whole:.3f}", value / whole)


def _percent(share: float) -> str:
    """A share in per cent; "0 %" only where it is exactly 0, so that a rounding error remains visible."""
    return "0 %" if share == 0 else "< 0.001 %" if abs(share) < 1e-5 else f"{100 * share:.3g} %"


def _not_counted(entries: Sequence[Mapping[Hashable, Any]], labels: Mapping[str, str]) -> Iterator[str]:
    """One line for each counter and method: the operations for which the counter has no formula."""
    for column, counter in (("macs_unsupported", "PyTorch’s counter"), ("fvcore_unsupported", "fvcore")):
        missed = {(str(entry["series"]), str(entry[column])): None for entry in entries if entry[column]}
        for key, names in missed:
            yield f"Not counted by {counter} in {labels[key]}: {names}."


# ----------------------------------------------------------------------------------------------------------------- formulas


def formulas(ready: Prepared, known: Formulas, quantity: str) -> Table | None:
    """Table 1, the exact formula and the fitted one in successive rows for each method and half; None where none was fitted."""
    data = with_columns(ready.tables.fitted, FITTED)
    data["residual"] = typed(data["residual"], "float64")
    rows: list[tuple[Cell, ...]] = []
    continued: list[int] = []
    keys: dict[str, str] = {}
    for one in ready.series:
        keys.setdefault(one.method, one.key)
    order = {method: place for place, method in enumerate(keys)}
    data = data.sort_values("method", key=lambda names: names.map(order), kind="stable")
    for fit in data[data["quantity"] == quantity].to_dict("records"):
        method, half = as_text(fit["method"]), as_text(fit["half"])
        named = (Cell(as_text(fit["title"]) or method, series=keys.get(method)), Cell(half))
        sources = {
            "Table\u00a01": known.published(method, quantity, half),
            "exact": known.exact(method, quantity, half),
        }
        for name, formula in sources.items():
            if formula:
                rows.append((*named, Cell(name), Cell(""), Cell(math=formula)))
        note, formula, text = as_text(fit["note"]), mathml(fit["fitted_mathml"]), as_text(fit["fitted"])
        found = Cell(text, math=formula, note=note) if formula or text else Cell(note or "–")
        rows.append((*named, Cell("fitted"), _residual(fit["residual"]), found))
        continued += range(len(rows) - sum(map(bool, sources.values())), len(rows))
    if not rows:
        return None
    # The formula last, because it may be too wide for the page.
    heads = [Column(title, numeric=False, sortable=False) for title in ("Method", "Half", "From", "Residual", "Formula")]
    return Table(heads, rows, _QUANTITIES[quantity], continued=frozenset(continued))


def _residual(value: float) -> Cell:
    if not math.isfinite(value):
        return Cell()
    return Cell(_percent(value), value, mark=RESIDUAL if value > AGREEMENT else "")


# ------------------------------------------------------------------------------------------------------------------- memory


def peaks(ready: Prepared, caption: str) -> Table | None:
    """Predicted peaks, counted on fake tensors, beside the peaks of the allocator; None where none was predicted."""
    known = predicted_peaks(ready.tables)
    entries = [(case, [_peak(case, phase, known) for phase in ("step", "inference")]) for case in ready.cases]
    entries = [(case, pairs) for case, pairs in entries if any(math.isfinite(sum(pair)) for pair in pairs)]
    if not entries:
        return None
    columns = heads([(case.series, case.shape) for case, _ in entries], ready.labels)
    pairs = {title: [found[place] for _, found in entries] for place, title in enumerate(("Training step", "Inference"))}
    every = {f"{title}, {what}": [pair[place] for pair in found]
             for title, found in pairs.items() for place, what in enumerate(("predicted", "measured"))}  # fmt: skip
    numbered = alike(every, BYTES)
    for place, found in enumerate(pairs.values()):
        columns += [*numbered[2 * place : 2 * place + 2], (Column("Difference"), [_relative(*pair) for pair in found])]
    return table(caption, [column for column in columns if any(cell.text != "–" for cell in column[1])])


def _peak(case: CaseRows, phase: str, known: Mapping[tuple[str, str], float]) -> tuple[float, float]:
    """The predicted and the measured peak of one phase, in bytes."""
    row = case.phase(phase)
    if row is None:
        return math.nan, math.nan
    return known.get((str(row["case"]), phase), math.nan), float(row["peak_memory_bytes"])


def _relative(prediction: float, measured: float) -> Cell:
    if not math.isfinite(prediction) or not measured > 0:
        return Cell()
    value = prediction / measured - 1
    text = "0 %" if prediction == measured else f"{100 * value:+.2f} %".replace("-", "−")
    return Cell(text, value, mark=RESIDUAL if abs(value) > PEAK_AGREEMENT else "")
