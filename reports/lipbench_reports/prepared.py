"""A run prepared once for all tables and figures: typed and sorted rows, their series and shapes, and values derived from them.

Rows may be incomplete: without Standard, with one case only, with failures only, or with empty columns. All later modules rely
on `prepare`: all columns exist, numbers are floats with NaN for missing values, texts are strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from lipbench_reports.intervals import Level
from lipbench_reports.tables import (
    CERTIFICATES,
    ROUNDS,
    Condition,
    Tables,
    as_text,
    as_texts,
    failures,
    is_missing,
    network_title,
    number,
    typed,
    with_columns,
)  # fmt: skip

SIZES = (
    Condition("channels", short="{} ch", words="{} channels"),
    Condition("image_size", short="{}²", words="{0} × {0} images"),
    Condition("kernel_size", short="k {}", words="kernel {0} × {0}"),
    Condition("batch_size", short="b {}", words="batch {}"),
)
MOST_CASES = 240
"""number of cases that tables of all cases list; a larger run is exported"""
INTERPRETED = Condition("interpreted", False, "interpreted")
"""A finding, not a condition of a case. Times from the interpreter are not timings, so they are kept apart from all others."""


@dataclass(frozen=True)
class Series:
    """One method in one implementation under conditions with a label. It has one line, one colour and one table row."""

    key: str
    """its identifier within this report, in the column `series`; opaque, not to be parsed"""
    columns: Mapping[str, object]
    """the columns that identify it: method, implementation, the conditions with a label, and whether it was interpreted"""
    name: str
    """method and implementation, for display"""
    marks: tuple[str, ...] = ()
    """labels of the conditions that differ from their defaults"""

    @property
    def method(self) -> str:
        return str(self.columns["method"])

    @property
    def implementation(self) -> str:
        return str(self.columns["implementation"])

    @property
    def label(self) -> str:
        return " · ".join([self.name, *self.marks])


@dataclass(frozen=True)
class CaseRows:
    """The rows of one series at one shape that belong to a phase."""

    series: str
    shape: str
    rows: pd.DataFrame

    @cached_property
    def _phases(self) -> dict[str, pd.Series]:
        names = self.rows["phase"].astype(str)
        return {name: self.rows.iloc[place] for place, name in reversed(list(enumerate(names)))}  # the first row of a phase

    def phase(self, name: str) -> pd.Series | None:
        return self._phases.get(name)

    def value(self, phase: str, column: str) -> float:
        """A number of one phase; NaN if it was not measured."""
        entry = self.phase(phase)
        return math.nan if entry is None else float(entry[column])

    def first(self, column: str) -> float:
        """A number that belongs to the case as a whole: from the training step's row, or else the first row that has it."""
        ordered = (self.value("step", column), *self.rows[column])
        return next((float(value) for value in ordered if not is_missing(value)), math.nan)


@dataclass(frozen=True)
class Prepared:
    """All or some rows of a run, and their series in the order of the registry."""

    tables: Tables
    methods: pd.DataFrame
    """the methods of the tables, with all columns"""
    rows: pd.DataFrame
    """sorted by series; with three more columns: `series`, `shape` (a readable text) and `unwatched` (it was timed without
    watching for contention)"""
    series: tuple[Series, ...]
    """methods that are not in the registry come last"""
    shapes: tuple[str, ...]
    """all shapes in the order of the run"""
    shape: str | None
    """the reference shape, at which numbers are shown"""

    def narrowed(self, rows: pd.DataFrame) -> Prepared:
        """The same with only these rows, and their series."""
        left = set(rows["series"])
        return replace(self, rows=rows, series=tuple(one for one in self.series if one.key in left))

    @cached_property
    def labels(self) -> dict[str, str]:
        """The labels of the series by their keys, in order."""
        return {one.key: one.label for one in self.series}

    @cached_property
    def written(self) -> Prepared:
        """The rows under the defaults of all conditions with a label, such as uncompiled; all rows where there are none.

        Only these are compared with each other: a method must not be ranked against its compiled self.
        """
        return self._usual()

    @cached_property
    def counted(self) -> Prepared:
        """The same with recomputed rows, of which formulas and predictions say what they keep too."""
        return self._usual("recomputed")

    def _usual(self, *free: str) -> Prepared:
        """The rows under the defaults of all conditions with a label, but for those in the `free` columns."""
        usual = pd.Series(True, index=self.rows.index)
        for condition in self.tables.conditions:
            if condition.label and condition.column not in free:
                usual &= self.rows[condition.column] == condition.default
        return self.narrowed(self.rows[usual]) if usual.any() else self

    @cached_property
    def at_shape(self) -> Prepared:
        """The rows at the reference shape."""
        return self.narrowed(self.rows[self.rows["shape"] == self.shape])

    @cached_property
    def listed(self) -> Prepared:
        """The cases that tables of all cases list: all, or those of evenly spaced shapes and of the reference shape, if
        there are more than about `MOST_CASES`."""
        cases = self.rows.drop_duplicates(["series", "shape"])
        if len(cases) <= MOST_CASES:
            return self
        shapes = [shape for shape in self.shapes if shape in set(cases["shape"])]
        count = max(2, MOST_CASES * len(shapes) // len(cases))
        chosen = {self.shape, *(shapes[int(place)] for place in np.linspace(0, len(shapes) - 1, count).round())}
        return self.narrowed(self.rows[self.rows["shape"].isin(chosen)])

    @cached_property
    def has_several_shapes(self) -> bool:
        return bool(self.rows["shape"].nunique() > 1)

    @cached_property
    def cases(self) -> tuple[CaseRows, ...]:
        """The cases with numbers, or with a phase that failed."""
        grouped = self.rows[self.rows["phase"] != ""].groupby(["series", "shape"], sort=False)
        return tuple(CaseRows(str(key), str(shape), group) for (key, shape), group in grouped)

    @cached_property
    def failures(self) -> pd.DataFrame:
        return failures(self.rows)

    @cached_property
    def failed_cases(self) -> pd.DataFrame:
        """The first row of each case in `failures`."""
        return self.failures.drop_duplicates(["series", "shape"])

    @cached_property
    def bounds(self) -> pd.DataFrame:
        """The certificates with series, shape and status of their cases; those of cases without a row are left out."""
        data = with_columns(self.tables.certificates, CERTIFICATES)
        for name in CERTIFICATES:
            data[name] = typed(data[name], "float64" if name in ("largest", "smallest", "image_size", "residual") else "str")
        cases = self.rows.drop_duplicates("case")[["case", "method", "series", "shape", "status"]]
        joined = cases.merge(data, on="case", how="inner")
        return _in_order(joined.assign(smallest=_of_orthogonal(joined, self.methods, "smallest")), self.series)

    @cached_property
    def levels(self) -> dict[tuple[str, str, str], list[Level]]:
        """Key of a series, shape and phase → the medians of its rounds."""
        data = with_columns(self.tables.rounds, ROUNDS)
        names = self.rows[["case", "phase", "series", "shape"]].astype(str).itertuples(index=False, name=None)
        places = {(case, phase): (series, shape, phase) for case, phase, series, shape in names}
        found: dict[tuple[str, str, str], list[Level]] = {}
        for case, phase, place, median, quiet in data[ROUNDS].itertuples(index=False, name=None):
            if (case, phase) in places and median > 0:
                found.setdefault(places[case, phase], []).append(Level(int(place), float(median), bool(quiet)))
        return found

    @cached_property
    def common(self) -> str:
        """What all rows share: "64 channels, 16 × 16 images, kernel 3 × 3, batch 32, float32 (ieee), cpu, 2 threads"."""
        return in_words(self.rows, self.tables.conditions)

    @cached_property
    def place(self) -> str | None:
        """The reference shape as text, without the conditions that all cases share."""
        at_shape = self.at_shape.rows
        if self.shape is None or at_shape.empty:
            return None
        shared = set(self.common.split(", "))
        parts = self.at_shape.common.split(", ")
        network = str(at_shape["network"].iloc[0])
        own = [part for part in parts if part not in shared or part.endswith(" channels")]
        return ", ".join([*([network_title(network)] if network else []), *own])

    def keys_of(self, frame: pd.DataFrame) -> list[str | None]:
        """The key of the series of each row of a frame; None for a series without rows in this run."""
        known = {tuple(one.columns.values()): one.key for one in self.series}
        return [known.get(identity) for identity in _identities(frame, self.tables)]


def prepare(tables: Tables) -> Prepared:
    """The rows with one type per column, and the values derived from them. Incomplete rows raise no error."""
    methods = with_columns(tables.methods, ["method", "title", "source", "lipschitz", "orthogonal", "iterations"])
    rows = _typed(tables)
    identities = _identities(rows, tables)
    series = _series(dict(zip(identities, rows["title"])), tables, methods)
    keys = {tuple(one.columns.values()): one.key for one in series}
    rows["series"] = pd.Series([keys[identity] for identity in identities], index=rows.index, dtype=object)
    rows["shape"] = pd.Series(_shapes(rows, tables.conditions), index=rows.index, dtype=object)
    rows["certificate_smallest"] = _of_orthogonal(rows, methods, "certificate_smallest")
    shapes = tuple(dict.fromkeys(rows["shape"]))
    ready = Prepared(tables, methods, _in_order(rows, series), series, shapes, None)
    return replace(ready, shape=_reference_shape(ready.written.rows))


def listed_cases(tables: Tables) -> list[str]:
    """Identities of the cases that some table lists, those at the reference shape first."""
    ready = prepare(tables)
    listed = (ready.at_shape, ready.written.listed, ready.listed)
    return list(dict.fromkeys(str(case) for one in listed for case in one.rows["case"]))


def _typed(tables: Tables) -> pd.DataFrame:
    defaults = {"implementation": "paper", "converged": True}  # a missing value causes no warning
    defaults |= {one.column: one.default for one in tables.conditions if one.label}
    tidy = with_columns(tables.rows, tables.columns).reset_index(drop=True)
    unknown = pd.Series([is_missing(value) or value == "" for value in tidy["contended"]], index=tidy.index, dtype=bool)
    warnings = pd.Series([as_texts(value) for value in tidy["warnings"]], index=tidy.index, dtype=object)
    for name, kind in tables.columns.items():
        tidy[name] = typed(tidy[name], kind, defaults.get(name))
    title = tidy["title"].where(tidy["title"] != "", tidy["method"])
    return tidy.assign(warnings=warnings, unwatched=unknown & tidy["median_s"].notna(), title=title)


def _identities(frame: pd.DataFrame, tables: Tables) -> list[tuple[object, ...]]:
    """The values that identify the series of each row, in the order of `Series.columns`."""
    conditions = _identity(tables)
    found = with_columns(frame, [one.column for one in conditions])
    kinds = {one.column: tables.columns.get(one.column, "str") for one in conditions}
    return list(zip(*(typed(found[one.column], kinds[one.column], one.default) for one in conditions)))


def _identity(tables: Tables) -> list[Condition]:
    labelled = (one for one in tables.conditions if one.label)
    return [Condition("method"), Condition("implementation", "paper"), *labelled, INTERPRETED]


def _series(titles: Mapping[tuple[object, ...], str], tables: Tables, methods: pd.DataFrame) -> tuple[Series, ...]:
    conditions = _identity(tables)
    order = {name: place for place, name in enumerate(methods["method"].astype(str))}
    found = []
    for identity, title in titles.items():
        columns = dict(zip((one.column for one in conditions), identity))
        marks = (
            one.label.format(columns[one.column]) for one in conditions if one.label and columns[one.column] != one.default
        )
        implementation = str(columns["implementation"])
        name = title if implementation == "paper" else f"{title} · {implementation}"
        found.append(Series("", columns, name, tuple(marks)))
    found.sort(
        key=lambda one: (
            order.get(one.method, len(order)), one.method, one.implementation != "paper", one.implementation, one.marks,
        )
    )  # fmt: skip
    return tuple(replace(one, key=f"series-{place}") for place, one in enumerate(found))


def _in_order(rows: pd.DataFrame, series: Iterable[Series]) -> pd.DataFrame:
    place = {one.key: number for number, one in enumerate(series)}
    return rows.sort_values("series", key=lambda keys: keys.map(place), kind="stable", ignore_index=True)


def _of_orthogonal(rows: pd.DataFrame, methods: pd.DataFrame, column: str) -> pd.Series:
    """The smallest singular values of methods that claim to be orthogonal, where they should be 1; missing for all others."""
    claims = {str(name) for name, claim in zip(methods["method"], methods["orthogonal"]) if not is_missing(claim) and claim}
    return rows[column].where(rows["method"].isin(claims))


def _reference_shape(rows: pd.DataFrame) -> str | None:
    """The shape measured for the most series, and of several the one with the most MACs; a layer's shape if possible."""
    measured = rows[rows["median_s"].notna() | rows["peak_memory_bytes"].notna()]
    layers = measured[measured["network"] == ""]
    grouped = (measured if layers.empty else layers).groupby("shape", sort=False)
    sizes = pd.DataFrame({"series": grouped["series"].nunique(), "macs": grouped["macs"].max().fillna(0)})
    sizes["channels"] = grouped["channels"].max().fillna(0)
    return None if sizes.empty else str(sizes.sort_values(["series", "macs", "channels"]).index[-1])


def _shapes(rows: pd.DataFrame, conditions: Sequence[Condition]) -> list[str]:
    """A short text per row that distinguishes its shape: the channels, and the sizes and conditions that vary in this run.

    Conditions with a label are left out: they are part of the series.
    """
    told = [*SIZES, *(one for one in conditions if not one.label)]
    varying = [one for one in told if one.column == "channels" or rows[one.column].nunique(dropna=False) > 1]
    texts = []
    for network, *values in rows[["network", *(one.column for one in varying)]].itertuples(index=False):
        parts = [one.short.format(number(value)) for one, value in zip(varying, values) if as_text(value)]
        texts.append(", ".join([*([network_title(network)] if network else []), *parts]) or "one shape")
    return texts


def in_words(rows: pd.DataFrame, conditions: Sequence[Condition]) -> str:
    """The sizes and conditions that all of these rows share, as text."""
    parts = []
    for one in (*SIZES, *(one for one in conditions if not one.label)):
        values = {as_text(number(value)) for value in rows[one.column]} - {""}
        if len(values) == 1:
            (value,) = values
            words = one.words.removesuffix("s") if value == "1" and one not in SIZES else one.words  # "1 thread"
            parts.append(words.format(value))
    return ", ".join(parts)
