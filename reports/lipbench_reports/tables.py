"""The input of a report: the frames of a run, and the conditions under which it was measured.

A frame may be incomplete: empty, without some of its columns, or with texts in place of numbers. `prepared` converts the rows
to the types in `Tables.columns`; `with_columns` adds missing columns to the other frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

YARDSTICK = "standard"
"""the method that costs are relative to"""

EXTERNAL = "external"
"""the value in the column `network` for a network that is not the paper's ConvNet"""
COMPLEXITY = ["method", "title", "half", "quantity", "published_mathml", "exact_mathml", "recomputed_mathml"]
EXPONENTS = [
    "quantity", "exponent", "low", "high", "least_slope", "greatest_slope", "points", "theory_exponent", "leading_exponent",
]  # fmt: skip
CERTIFICATES = ["case", "mode", "largest", "smallest", "kind", "how", "image_size", "residual", "growing", "unknown"]
WARNINGS = ["case", "kind", "phases", "text"]
ROUNDS = ["case", "phase", "round", "median_s", "quiet"]
FITTED = ["method", "title", "half", "quantity", "fitted", "fitted_mathml", "residual", "note"]
PREDICTED = ["case", "phase", "predicted_peak_bytes"]
LIMITS = ["case", "phase", "seconds", "floor_s", "bound", "macs", "bytes", "macs_per_s", "bytes_per_s", "source"]
CHANGES = ["case", "phase", "quantity", "base", "head", "ratio", "low", "high", "pairs", "verdict", "reason"]
PUBLISHED = ["dataset", "train_images", "batch_size", "layer", "size", "train_seconds_per_epoch"]

LIPSCHITZ_TOLERANCE = 1e-4
UPPER_BOUND, LOWER_BOUND = "upper bound", "lower bound"
"""The kinds of a constant that is not exact."""


@dataclass(frozen=True)
class Condition:
    """A column with a condition under which cases were measured, and how its values are written."""

    column: str
    default: object = None
    """the value where the column has none"""
    label: str = ""
    """format of a value other than the default in the name of a series: such rows form a series of their own. "" for a
    condition that distinguishes shapes"""
    short: str = "{}"
    """format of the value in the name of a shape"""
    words: str = "{}"
    """format of the value in a sentence about all cases"""


@dataclass(frozen=True)
class Trained:
    """Everything a report shows of trainings.

    The column `group` has the same text for trainings that differ in the seed alone.
    """

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per group of trainings that were evaluated on test images, with means over seeds and their intervals"""
    trainings: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per training, the draws of searches included"""
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per training and point of its learning curve"""
    quantiles: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per training and quantile of its certified radii"""


@dataclass(frozen=True)
class Tables:
    """Everything a report shows of a run."""

    title: str
    rows: pd.DataFrame
    """one tidy row per case and phase; one row with phase "" for a case that failed"""
    columns: Mapping[str, str]
    """every column that `rows` should have, and its type: str, boolean, Int64 or float64"""
    conditions: Sequence[Condition]
    """of the cases, without the sizes"""
    methods: pd.DataFrame
    """method, title, source, linear, orthogonal, lipschitz, and optionally iterations: its t, t1 and t2 as text"""
    complexity: pd.DataFrame
    """formulas by method, half and quantity, as text and as MathML"""
    exponents: pd.DataFrame
    """fitted exponents in the channels beside those of theory"""
    published: pd.DataFrame
    """the paper's epoch budget (Table 8)"""
    run: Mapping[str, object] = field(default_factory=dict)
    """command, out (the run directory as it was named), started, machine, limits, version, warnings, problems (what could not
    be read), planned (the number of cases; 0 if unknown), unfinished (identities of the cases that have not run) and incomplete
    (of those whose rounds or examinations are not all done)"""
    certificates: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per case, mode and bound; the first of a case and mode is the one to quote"""
    warnings: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per case and warning of its records"""
    rounds: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per case, phase and round: the median of its samples, and whether no other process was busy"""
    fitted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """formulas fitted to counts, by method, half and quantity; the residual is relative"""
    predicted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """predicted peak of each case and phase, counted on fake tensors"""
    limits: pd.DataFrame = field(default_factory=pd.DataFrame)
    """least time of each measured phase, with the operations it is made of, and the rates of the machine; empty where they are
    not known"""
    changes: pd.DataFrame = field(default_factory=pd.DataFrame)
    """comparison with another run, the base: one row per case, phase and quantity; empty where there is none"""
    changed: Sequence[str] = ()
    """what a reader must know of it, one line each"""
    trained: Trained = field(default_factory=Trained)
    """trainings in the same directory"""


def with_columns(frame: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A copy with at least these columns, NaN in those that were missing."""
    return frame.reindex(columns=[*frame.columns, *(name for name in columns if name not in frame.columns)])


def predicted_peaks(tables: Tables) -> dict[tuple[str, str], float]:
    """Identity of a case and phase → the predicted peak in bytes."""
    data = with_columns(tables.predicted, PREDICTED)
    return dict(zip(zip(data["case"].map(as_text), data["phase"].map(as_text)), typed(data["predicted_peak_bytes"], "float64")))


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN or NA."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def as_text(value: object) -> str:
    return "" if is_missing(value) else str(value)


def as_texts(value: object) -> tuple[str, ...]:
    """The non-empty lines of a text, or the non-empty texts of an iterable; () for anything else."""
    if isinstance(value, str):
        return tuple(part for part in value.split("\n") if part.strip())
    if isinstance(value, Iterable):
        return tuple(as_text(part) for part in value if as_text(part))
    return ()


def number(value: object) -> object:
    """Whole floats as integers, so that 64.0 channels print as 64; anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def typed(values: pd.Series, kind: str, default: object = None) -> pd.Series:
    """A column as floats, texts or flags, by its `kind` in `Tables.columns`; the default where a text or flag is missing."""
    if kind not in ("str", "boolean"):
        return pd.to_numeric(values, errors="coerce").astype(float)
    convert = as_text if kind == "str" else _as_flag
    missing = convert(default)
    found = [missing if is_missing(value) or value == "" else convert(value) for value in values]
    return pd.Series(found, index=values.index, dtype=object if kind == "str" else bool)


def _as_flag(value: object) -> bool:
    return value.lower() == "true" if isinstance(value, str) else not is_missing(value) and bool(value)


def certificate_fails(largest: float, kind: str) -> bool:
    """Whether a Lipschitz constant of that kind shows a violation: it is above 1 + 1e-4 and not an upper bound."""
    return kind != UPPER_BOUND and largest > 1 + LIPSCHITZ_TOLERANCE


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per case and status other than ok: the case gave no numbers, may not be ranked, or failed in part.

    The additional column `failed` has the phases that failed, as a text; "" for the case as a whole or a part that is no phase.
    """
    failed = rows[~rows["status"].isin(["ok", ""])]  # "": the case has not run yet
    keys = ["series", "shape", "status"]
    phases = failed[failed["phase"] != ""].groupby(keys)["phase"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    first = failed.drop_duplicates(keys)
    texts = [as_text(phases.get(key, "")).replace("_", " ") for key in zip(*(first[name] for name in keys))]
    return first.assign(failed=pd.Series(texts, index=first.index, dtype=object))


def network_title(network: str) -> str:
    """The title of a network: the paper's ConvNet of a size, or an external one."""
    return "external network" if network == EXTERNAL else f"ConvNet {network}"
