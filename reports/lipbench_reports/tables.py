"""What a report is made from: the frames of a run, cleaned once, and how their rows are named and chosen.

Rows may be odd: no Standard, one case only, nothing that worked, columns that are empty. Everything after this module relies on
`prepare`: all columns exist, numbers are floats with NaN for what is missing, texts are strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

YARDSTICK = "standard"
"""the method that costs are put in relation to"""

EXTERNAL = "external"
"""stands in the column `network` for one that is not the paper's ConvNet"""
CONDITIONS = ["network", "channels", "image_size", "kernel_size", "batch_size", "dtype", "precision", "device", "threads"]
"""Columns that say what was measured under which conditions, whatever the method."""

TEXTS = [
    "method", "title", "implementation", "network", "dtype", "precision", "device", "phase", "status", "reason", "case",
    "certificate_kind", "certificate_how", "certificate_training_kind", "fvcore_unsupported", "macs_unsupported",
]  # fmt: skip
FLAGS = ["contended", "converged", "launch_bound", "compiled", "interpreted"]
NUMBERS = [
    "channels", "image_size", "kernel_size", "batch_size", "threads", "median_s", "p20_s", "p80_s", "samples", "rounds",
    "round_spread", "outliers", "timer_cost_s", "host_median_s", "peak_memory_bytes", "peak_above_baseline_bytes",
    "reserved_memory_bytes", "process_memory_bytes", "saved_memory_bytes", "saved_input_half_bytes",
    "saved_parameter_half_bytes", "parameter_bytes", "buffer_bytes", "gradient_bytes", "optimizer_bytes", "input_bytes",
    "output_bytes", "workspace_bytes", "macs", "theory_macs", "theory_memory_elements",
    "published_macs", "published_memory_elements", "published_convention_macs", "fvcore_macs", "images_per_s", "compile_s",
    "certificate", "certificate_smallest", "certificate_training",
]  # fmt: skip
COMPLEXITY = ["method", "title", "half", "quantity", "published_mathml", "exact_mathml"]
EXPONENTS = [
    "method", "title", "implementation", "compiled", "quantity", "exponent", "low", "high", "least_slope", "greatest_slope",
    "points", "theory_exponent", "leading_exponent",
]  # fmt: skip
CERTIFICATES = ["case", "mode", "largest", "smallest", "kind", "how", "image_size", "residual", "growing"]
FITTED = ["method", "title", "half", "quantity", "fitted", "fitted_mathml", "residual", "note"]
PREDICTED = ["case", "phase", "predicted_peak_bytes"]
PUBLISHED = ["dataset", "train_images", "batch_size", "layer", "size", "train_seconds_per_epoch"]

LIPSCHITZ_TOLERANCE = 1e-4
UPPER_BOUND, LOWER_BOUND = "upper bound", "lower bound"
"""Kinds of a constant that is not exact."""


@dataclass(frozen=True)
class Tables:
    """Everything a report shows, as the comparison of a run with theory made it."""

    title: str
    rows: pd.DataFrame
    """one tidy row per case and phase; one row with phase "" for a case that failed"""
    methods: pd.DataFrame
    """method, title, source, linear, orthogonal, lipschitz, and optionally iterations: its t, t1 and t2 as text"""
    complexity: pd.DataFrame
    """formulas by method, half and quantity, as text and as MathML"""
    exponents: pd.DataFrame
    """fitted exponents in the channels beside those of theory"""
    published: pd.DataFrame
    """the paper's epoch budget (Table 8)"""
    run: Mapping[str, object] = field(default_factory=dict)
    """command, started, machine, limits, version, warnings, problems (what could not be read), planned (how many cases; 0 for
    unknown) and unfinished (identities of those that have not run)"""
    certificates: pd.DataFrame = field(default_factory=pd.DataFrame)
    """one row per case, mode and bound; the first of a case and mode is the one to quote"""
    fitted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """formulas fitted to counts alone, by method, half and quantity; residual relative"""
    predicted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """peak of each case and phase, counted without computing"""


@dataclass(frozen=True)
class Series:
    """One method in one implementation, compiled or not: what a line, a colour and a table row stand for."""

    key: str
    method: str
    implementation: str
    label: str


def with_columns(frame: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A copy that has at least these columns, NaN where they were missing."""
    return frame.reindex(columns=[*frame.columns, *(name for name in columns if name not in frame.columns)])


def prepare(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with one type per column, and three more: `series` (the key of what a row is of), `shape` (a readable text) and
    `unwatched` (it was timed, and nobody looked for contention).

    What was interpreted is a series of its own: its times are no times, and must not be put together with any.
    """
    tidy = with_columns(rows, [*TEXTS, *FLAGS, *NUMBERS, "warnings"]).reset_index(drop=True)
    for name in NUMBERS:
        tidy[name] = pd.to_numeric(tidy[name], errors="coerce").astype(float)
    for name in TEXTS:
        tidy[name] = pd.Series([as_text(value) for value in tidy[name]], index=tidy.index, dtype=object)
    unknown = pd.Series([is_missing(value) or value == "" for value in tidy["contended"]], index=tidy.index, dtype=bool)
    tidy["unwatched"] = unknown & tidy["median_s"].notna()
    for name in FLAGS:
        # A flag that is missing raises no alarm: not contended, and as converged as anybody knows.
        tidy[name] = pd.Series([_as_flag(value, name == "converged") for value in tidy[name]], index=tidy.index, dtype=bool)
    tidy["warnings"] = pd.Series([as_texts(value) for value in tidy["warnings"]], index=tidy.index, dtype=object)
    tidy["implementation"] = tidy["implementation"].where(tidy["implementation"] != "", "paper")
    tidy["title"] = tidy["title"].where(tidy["title"] != "", tidy["method"])
    names = tidy[["method", "implementation", "compiled", "interpreted"]]
    keys = [series_key(*values) for values in names.itertuples(index=False, name=None)]
    tidy["series"] = pd.Series(keys, index=tidy.index, dtype=object)
    tidy["shape"] = pd.Series(_shapes(tidy), index=tidy.index, dtype=object)
    return tidy


def series_key(method: str, implementation: str, compiled: bool, interpreted: bool = False) -> str:
    """The key of a series; what stands before the first | is the method."""
    conditions = {"compiled": compiled, "interpreted": interpreted}
    return "|".join([method, implementation, *(name for name, holds in conditions.items() if holds)])


def as_written(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of what was not compiled; all of them where everything was.

    Methods are compared as they are written: the same function in both columns of a ranking would be ranked against itself.
    """
    return rows if rows["compiled"].all() else rows[~rows["compiled"]]


def is_missing(value: object) -> bool:
    """None, NaN or NA."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def as_text(value: object) -> str:
    return "" if is_missing(value) else str(value)


def as_texts(value: object) -> tuple[str, ...]:
    """Warnings as they come: a text, some texts, or nothing."""
    if isinstance(value, str):
        return tuple(part for part in value.split("\n") if part.strip())
    if isinstance(value, Iterable):
        return tuple(as_text(part) for part in value if as_text(part))
    return ()


def _as_flag(value: object, missing: bool) -> bool:
    if is_missing(value) or value == "":
        return missing
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def series_of(rows: pd.DataFrame, methods: pd.DataFrame) -> list[Series]:
    """The series of prepared rows, in the registry's order; methods that it does not know come last."""
    order = {name: place for place, name in enumerate(with_columns(methods, ["method"])["method"].astype(str))}
    series = []
    for row in rows.drop_duplicates("series").to_dict("records"):
        said = [row["title"], *(name for name in (row["implementation"],) if name != "paper"), *row["series"].split("|")[2:]]
        series.append(Series(row["series"], row["method"], row["implementation"], " · ".join(said)))
    return sorted(
        series, key=lambda one: (order.get(one.method, len(order)), one.method, one.implementation != "paper", one.key)
    )


def reference(rows: pd.DataFrame, series: list[Series]) -> Series | None:
    """What costs are put in relation to: Standard, or else the series with the most cases that worked; None if none did."""
    worked = (rows["median_s"].notna() | rows["peak_memory_bytes"].notna()) & ~rows["interpreted"]
    counts = rows[worked].groupby("series")["shape"].nunique()
    working = [one for one in series if one.key in counts.index]
    yardsticks = [one for one in working if one.method == YARDSTICK]
    candidates = [one for one in yardsticks if one.implementation == "paper"] or yardsticks
    return candidates[0] if candidates else max(working, key=lambda one: int(counts[one.key]), default=None)


def certificate_fails(largest: float, kind: str) -> bool:
    """Whether a Lipschitz constant of that kind shows a violation: above 1 + 1e-4, and not merely bounded from above."""
    return kind != UPPER_BOUND and largest > 1 + LIPSCHITZ_TOLERANCE


def refuted(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Series with a case that is not 1-Lipschitz, and at which shapes."""
    fails = [certificate_fails(*pair) for pair in zip(rows["certificate"], rows["certificate_kind"])]
    failing = rows[(rows["status"] == "not_lipschitz") | pd.Series(fails, index=rows.index, dtype=bool)]
    return {str(key): list(dict.fromkeys(group["shape"])) for key, group in failing.groupby("series")}


def unclaimed(methods: pd.DataFrame) -> set[str]:
    """Methods that do not claim to be 1-Lipschitz."""
    data = with_columns(methods, ["method", "lipschitz"])
    return {str(name) for name, claim in zip(data["method"], data["lipschitz"]) if not is_missing(claim) and not claim}


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per case and status other than ok: of a case that gave no numbers, may not be ranked, or failed in part.

    One column more, `failed`: the phases that did, as a text; "" for the case as a whole, and for what is no phase.
    """
    failed = rows[~rows["status"].isin(["ok", "predicted", ""])]  # "": it has not run yet
    keys = ["series", "shape", "status"]
    phases = failed[failed["phase"] != ""].groupby(keys)["phase"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    first = failed.drop_duplicates(keys)
    texts = [as_text(phases.get(key, "")).replace("_", " ") for key in zip(*(first[name] for name in keys))]
    return first.assign(failed=pd.Series(texts, index=first.index, dtype=object))


def failed_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of `failures` of each case."""
    return failures(rows).drop_duplicates(["series", "shape"])


def reference_shape(rows: pd.DataFrame) -> str | None:
    """The shape at which numbers are shown: a layer's if there is one, measured for the most series, with the most MACs."""
    measured = rows[rows["median_s"].notna() | rows["peak_memory_bytes"].notna()]
    layers = measured[measured["network"] == ""]
    grouped = (measured if layers.empty else layers).groupby("shape", sort=False)
    sizes = pd.DataFrame({"series": grouped["series"].nunique(), "macs": grouped["macs"].max().fillna(0)})
    sizes["channels"] = grouped["channels"].max().fillna(0)
    return None if sizes.empty else str(sizes.sort_values(["series", "macs", "channels"]).index[-1])


_PARTS = {
    "channels": "{} ch", "image_size": "{}²", "kernel_size": "k {}", "batch_size": "b {}", "dtype": "{}", "precision": "{}",
    "device": "{}", "threads": "{} threads",
}  # fmt: skip


def _shapes(rows: pd.DataFrame) -> list[str]:
    """A short text per row that tells its conditions from those of all other rows: channels, and what varies in this run."""
    varying = [name for name in CONDITIONS if name != "network" and rows[name].nunique(dropna=False) > 1]
    names = ["channels", *(name for name in varying if name != "channels")]
    texts = []
    for values in rows[CONDITIONS].itertuples(index=False):
        value = dict(zip(CONDITIONS, values))
        network = [network_title(str(value["network"]))] if value["network"] else []
        parts = [_PARTS[name].format(number(value[name])) for name in names if as_text(value[name])]
        texts.append(", ".join([*network, *parts]) or "one shape")
    return texts


def network_title(network: str) -> str:
    """A network in words: the paper's ConvNet of a size, or one that is given by name."""
    return "external network" if network == EXTERNAL else f"ConvNet {network}"


def common_conditions(rows: pd.DataFrame) -> str:
    """What all rows share, in words: "64 channels, 16 × 16 images, kernel 3 × 3, batch 32, float32 (ieee), cpu, 2 threads"."""
    words = {
        "channels": "{0} channels", "image_size": "{0} × {0} images",
        "kernel_size": "kernel {0} × {0}", "batch_size": "batch {0}", "dtype": "{0}",
        "precision": "{0} precision", "device": "on {0}", "threads": "{0} threads",
    }  # fmt: skip
    parts = []
    for name, word in words.items():
        values = {as_text(number(value)) for value in rows[name]} - {""}
        if len(values) == 1:
            parts.append(
                word.format(values.pop()).replace("1 threads", "1 thread") if name == "threads" else word.format(*values)
            )
    return ", ".join(parts)


def number(value: object) -> object:
    """Whole floats as integers, so that 64.0 channels print as 64; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
