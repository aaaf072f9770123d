"""Tables of Lipschitz constants: the constant of every case, how it was found, and whether it is exact or a bound."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from lipbench_reports.cells import NO_CLAIM, VIOLATION, Cell, Column, Table, heads, named, placed, power_of_ten, table
from lipbench_reports.prepared import Prepared
from lipbench_reports.tables import LOWER_BOUND, UPPER_BOUND, certificate_fails, is_missing

SHRINKING = 0.1
"""A layer with a constant below this keeps its bound only by shrinking the signal."""
HOW = {
    "fourier": "all Fourier blocks", "dense": "whole Jacobian", "lanczos": "Lanczos steps", "ascent": "samples and ascent",
    "jump": "both sides of a jump", "product": "product of the layers", "composition": "constants of all operations",
}  # fmt: skip
_SIGNS = {LOWER_BOUND: "≥ ", UPPER_BOUND: "≤ "}


def constant(largest: float, kind: str, mark: str = "") -> Cell:
    """A cell with a Lipschitz constant and its kind: "1.0000 exact", "≥ 1.0012 lower bound"."""
    if not math.isfinite(largest):
        return Cell()
    return Cell(f"{_SIGNS.get(kind, '')}{_digits(largest)}", largest, note=kind, mark=mark)


def _digits(value: float) -> str:
    """Four decimals, or six where four would hide whether the value is above 1 or above the tolerance."""
    if not 1e-3 <= abs(value) < 1e4:  # a product over layers may have any size
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value - 1) < 5e-7 or abs(value - 1) > 1e-3 else f"{value:.6f}"


def in_summary(ready: Prepared, keys: Sequence[str], yardsticks: frozenset[str]) -> list[tuple[Column, list[Cell]]]:
    """Columns of the largest constant of each series over its cases, in evaluation and in training; empty ones are left out."""
    by_case = ready.rows.drop_duplicates(["series", "case"])
    of_each = [by_case[by_case["series"] == key] for key in keys]
    quoted = [
        _worst(own["certificate"], own["certificate_kind"], own["status"], NO_CLAIM if key in yardsticks else VIOLATION)
        for key, own in zip(keys, of_each)
    ]
    training = [_worst(own["certificate_training"], own["certificate_training_kind"]) for own in of_each]
    smallest = [_smallest(own["certificate_smallest"]) for own in of_each]
    columns = [(Column("Lipschitz constant"), quoted), (Column("In training"), training), (Column("σ min"), smallest)]
    return [column for column in columns if any(cell.sort is not None for cell in column[1])]


def worst(values: pd.Series, kinds: pd.Series) -> tuple[float, str]:
    """The largest of some constants and its kind: upper bounds count where there is nothing else; NaN and "" for none."""
    known = values.notna()
    best = known & (kinds != UPPER_BOUND)
    chosen = best if best.any() else known
    if not chosen.any():
        return math.nan, ""
    kind = LOWER_BOUND if (kinds[chosen] == LOWER_BOUND).any() else str(kinds[chosen].iloc[0])
    return float(values[chosen].max()), kind


def _worst(values: pd.Series, kinds: pd.Series, statuses: pd.Series | None = None, mark: str = "") -> Cell:
    fails = statuses is not None and (statuses == "not_lipschitz").any()
    largest, kind = worst(values, kinds)
    if not kind:
        return Cell("fails", math.inf, mark=mark) if fails else Cell()
    return constant(largest, kind, mark if mark and (fails or certificate_fails(largest, kind)) else "")


def _smallest(values: pd.Series) -> Cell:
    found = values.dropna()
    return Cell() if found.empty else Cell(_digits(float(found.min())), float(found.min()))


def quoted_table(ready: Prepared, yardsticks: frozenset[str]) -> Table | None:
    """One row per case: the constants to quote, how they were found, and whether they show that it is 1-Lipschitz."""
    by_case = [group for _, group in ready.bounds.groupby(["series", "shape"], sort=False)]
    evaluation = [_first(group, "evaluation") for group in by_case]
    training = [_first(group, "training") for group in by_case]
    found = [(group, one, other) for group, one, other in zip(by_case, evaluation, training) if one is not None]
    if not found:
        return None
    keys = [str(group["series"].iloc[0]) for group, _, _ in found]
    columns = heads([(key, str(group["shape"].iloc[0])) for key, (group, _, _) in zip(keys, found)], ready.labels)
    columns += [
        (Column("1-Lipschitz", numeric=False), [
            _judged(group, one, key in yardsticks) for key, (group, one, _) in zip(keys, found)
        ]),
        (Column("Constant"), [constant(one["largest"], one["kind"]) for _, one, _ in found]),
        (Column("In training"), [Cell() if one is None else constant(one["largest"], one["kind"]) for _, _, one in found]),
        (Column("σ min"), [_plain(one["smallest"]) for _, one, _ in found]),
        (Column("Found by", numeric=False), [_how(one) for _, one, _ in found]),
        (Column("Residual"), [_error(one["residual"]) for _, one, _ in found]),
        (Column("Variance grows in", numeric=False), [_growing(group) for group, _, _ in found]),
    ]  # fmt: skip
    return table("Lipschitz constants", [column for column in columns if any(cell.text != "–" for cell in column[1])])


def bounds_table(ready: Prepared) -> Table | None:
    """Every bound that was found, quoted or not; None where there are no others than the quoted ones."""
    bounds = ready.bounds
    if bounds.empty or len(bounds) == len(bounds.drop_duplicates(["case", "mode"])):
        return None
    rows = bounds.to_dict("records")
    columns = [
        named(list(bounds["series"]), ready.labels),
        placed(list(bounds["shape"])),
        (Column("Mode", numeric=False), [Cell(row["mode"], row["mode"]) for row in rows]),
        (Column("Constant"), [constant(row["largest"], row["kind"]) for row in rows]),
        (Column("σ min"), [_plain(row["smallest"]) for row in rows]),
        (Column("Found by", numeric=False), [_how(row) for row in rows]),
        (Column("At image size"), [_whole(row["image_size"]) for row in rows]),
        (Column("Residual"), [_error(row["residual"]) for row in rows]),
    ]  # fmt: skip
    return table("Every bound", columns)


def _first(group: pd.DataFrame, mode: str) -> pd.Series | None:
    found = group[(group["mode"] == mode) & group["largest"].notna()]
    return None if found.empty else found.iloc[0]


def _judged(group: pd.DataFrame, quoted: pd.Series, is_yardstick: bool) -> Cell:
    evaluation = group[group["mode"] == "evaluation"]
    fails = [certificate_fails(*pair) for pair in zip(evaluation["largest"], evaluation["kind"])]
    if is_yardstick:
        return Cell("no claim", 2.0)
    if any(fails) or _growing(group).text != "–" or quoted["status"] == "not_lipschitz":
        return Cell("no", 0.0, mark=VIOLATION)
    if unknown := next((str(text) for text in group["unknown"] if text and not is_missing(text)), ""):
        return Cell("cannot tell", 0.5, note=unknown)
    return Cell("not refuted", 1.0) if quoted["kind"] == LOWER_BOUND else Cell("yes", 3.0)


def _growing(group: pd.DataFrame) -> Cell:
    names = next((text for text in group["growing"] if text), "")
    return Cell(names, names) if names else Cell()


def _how(bound: Mapping[Hashable, Any] | pd.Series) -> Cell:
    text = HOW.get(str(bound["how"]), str(bound["how"]))
    return Cell(text, text) if text else Cell()


def _plain(value: float) -> Cell:
    return Cell(_digits(value), value) if math.isfinite(value) else Cell()


def _whole(value: float) -> Cell:
    return Cell(f"{value:.0f}", value) if math.isfinite(value) else Cell()


def _error(value: float) -> Cell:
    """A cell with a small error in one digit: 3·10⁻⁸; "–" for none."""
    return Cell(power_of_ten(value), value) if math.isfinite(value) and value > 0 else Cell()


def shrinking(ready: Prepared) -> list[tuple[str, str]]:
    """The labels of series whose constant is known to be far below 1, each with its smallest constant."""
    bounds = ready.bounds
    quoted = bounds.drop_duplicates(["case", "mode"]) if len(bounds) else bounds
    small = quoted[(quoted["mode"] == "evaluation") & (quoted["kind"] != LOWER_BOUND) & (quoted["largest"] < SHRINKING)]
    least = small.groupby("series", sort=False)["largest"].min()
    return [(ready.labels[str(key)], _digits(float(value))) for key, value in least.items()]
