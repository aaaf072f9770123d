"""Tables of what was measured: relative costs, plain numbers, the share of the two halves, scores, and the paper's epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lipbench_reports import certificates
from lipbench_reports.cells import BYTES, COUNTS, TIMES, Cell, Column, Table, digits, numbers, ratio, table
from lipbench_reports.costs import AXES, MEASURES, Costs
from lipbench_reports.tables import PUBLISHED, YARDSTICK, failures, number, with_columns

CONTENDED, INTERPRETED = "contended", "interpreted"
PHASE_TITLES = {
    "forward": "forward", "backward": "backward", "step": "training step", "parametrize": "parameter half",
    "inference": "inference", "first_inference": "first inference",
}  # fmt: skip

DATASETS = {32: "cifar", 64: "tiny_imagenet"}
"""Which of the paper's data sets has images of that size."""


def names(keys: list[str], labels: Mapping[str, str], title: str = "Method") -> tuple[Column, list[Cell]]:
    """The column of methods, sorted as text."""
    return Column(title, numeric=False), [Cell(labels[key], labels[key], series=key) for key in keys]


def summary(rows: pd.DataFrame, found: Costs, labels: Mapping[str, str]) -> Table | None:
    """Each series relative to the reference, by geometric mean over common shapes; None if nothing can be compared."""
    if found.reference is None:
        return None
    keys = [one.key for one in found.series]
    columns = [names(keys, labels)]
    for measure in MEASURES:
        if not found.relative[measure.title]:
            continue
        entries = [found.of(measure.title, one) for one in found.series]
        cells = [ratio(entry.ratio, CONTENDED if entry.contended else "") for entry in entries]
        columns.append((Column(measure.title.capitalize()), cells))
    columns += certificates.in_summary(rows, keys, found.yardsticks)
    shapes = [max((found.of(measure.title, one).shapes for measure in MEASURES), default=0) for one in found.series]
    columns.append((Column("Shapes"), [Cell(str(count), float(count)) for count in shapes]))
    failed = failures(rows)["series"].value_counts()
    columns.append((Column("Failed cases"), [Cell(str(failed.get(key, 0)), float(failed.get(key, 0))) for key in keys]))
    return table(f"Cost relative to {found.reference.label}", columns)


def scores(found: Costs, labels: Mapping[str, str]) -> tuple[Table, dict[str, dict[str, float]]] | None:
    """Scores 1 to 5 as a table and by series and axis, of the axes for which anybody has one; None without any."""
    axes = [(axis, measure.title) for axis, measure in zip(AXES, MEASURES) if found.ranking(measure.title)]
    values = {one.key: {axis: found.score(title, one) for axis, title in axes} for one in found.series}
    values = {key: entries for key, entries in values.items() if any(math.isfinite(score) for score in entries.values())}
    if not axes or not values:
        return None
    columns = [names(list(values), labels)]
    for axis, _ in axes:
        column = [entries[axis] for entries in values.values()]
        cells = [Cell(f"{score:.1f}", score) if math.isfinite(score) else Cell() for score in column]
        columns.append((Column(axis.capitalize()), cells))
    return table("Scores from 1 to 5", columns), values


def plain_numbers(rows: pd.DataFrame, labels: Mapping[str, str], caption: str, with_shape: bool) -> Table | None:
    """Median times by phase, peaks and sizes, one row per case; with the shape as a column where rows differ in it."""
    cases = {(str(key), str(shape)): group for (key, shape), group in _cases(rows)}
    if not cases:
        return None
    columns = [names([key for key, _ in cases], labels)]
    if with_shape:
        columns.append((Column("Case", numeric=False), [Cell(shape, float(place)) for place, (_, shape) in enumerate(cases)]))
    for phase, title in PHASE_TITLES.items():
        entries = [_phase(group, phase) for group in cases.values()]
        columns.append(_with_range(f"{title[0].upper()}{title[1:]}", entries))
    columns.append(numbers("Throughput", [_value(_phase(group, "inference"), "images_per_s") for group in cases.values()],
                           (("k images/s", 1e3), ("images/s", 1.0))))  # fmt: skip
    columns.append(numbers("MACs, forward", [_value(_phase(group, "forward"), "macs") for group in cases.values()], COUNTS))
    byte_columns: dict[str, Callable[[pd.DataFrame], float]] = {
        "Training peak": lambda group: _value(_phase(group, "step"), "peak_memory_bytes"),
        "Inference peak": lambda group: _value(_phase(group, "inference"), "peak_memory_bytes"),
        "Saved for backward": lambda group: _first(group, "saved_memory_bytes"),
        "Parameters": lambda group: _first(group, "parameter_bytes"),
    }
    for title, read in byte_columns.items():
        columns.append(numbers(title, [read(group) for group in cases.values()], BYTES))
    return table(caption, [column for column in columns if any(cell.sort is not None for cell in column[1])])


def _with_range(title: str, entries: list[pd.Series | None]) -> tuple[Column, list[Cell]]:
    """Median times with their 20th and 80th percentile in small print."""
    column, cells = numbers(title, [_value(entry, "median_s") for entry in entries], TIMES)
    size = dict(TIMES).get(column.unit, 1.0)
    noted = []
    for cell, entry in zip(cells, entries):
        low, high = _value(entry, "p20_s") / size, _value(entry, "p80_s") / size
        note = f"{digits(low)}–{digits(high)}" if math.isfinite(low + high) and cell.sort is not None else ""
        mark = doubt(entry) if entry is not None and cell.sort is not None else ""
        noted.append(Cell(cell.text, cell.sort, note=note, mark=mark))
    return column, noted


def doubt(entry: pd.Series) -> str:
    """The mark of a time that is not to be relied on."""
    return INTERPRETED if entry["interpreted"] else CONTENDED if entry["contended"] else ""


def _cases(rows: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The rows of each case that gave numbers."""
    return rows[rows["phase"] != ""].groupby(["series", "shape"], sort=False)


def _phase(group: pd.DataFrame, phase: str) -> pd.Series | None:
    found = group[group["phase"] == phase]
    return None if found.empty else found.iloc[0]


def _value(entry: pd.Series | None, column: str) -> float:
    return math.nan if entry is None else float(entry[column])


def _first(group: pd.DataFrame, column: str) -> float:
    """What is said of a case as a whole, from whichever of its rows has it; the training step's row first."""
    ordered = pd.concat([group[group["phase"] == "step"], group])
    values = ordered[column].dropna()
    return math.nan if values.empty else float(values.iloc[0])


@dataclass(frozen=True)
class Halves:
    """Time and saved bytes of the two halves in one case."""

    series: str
    shape: str
    parameter_s: float
    input_s: float
    parameter_bytes: float
    input_bytes: float
    mark: str


def shares(rows: pd.DataFrame, labels: Mapping[str, str]) -> Table | None:
    """How time and saved memory divide between the two halves, one row per case; None if no case has a parameter half."""
    found = [_halves(str(key), str(shape), group) for (key, shape), group in _cases(rows)]
    found = [one for one in found if math.isfinite(one.input_s) or math.isfinite(one.parameter_bytes + one.input_bytes)]
    if not found:
        return None
    marks = [one.mark for one in found]
    columns: list[tuple[Column, Sequence[Cell]]] = [names([one.series for one in found], labels)]
    if len({one.shape for one in found}) > 1:
        columns.append((Column("Case", numeric=False), [Cell(one.shape, float(place)) for place, one in enumerate(found)]))
    columns += [
        numbers("Time, parameter half", [one.parameter_s for one in found], TIMES, marks=marks),
        numbers("Time, input half", [one.input_s for one in found], TIMES, marks=marks),
        (Column("Parameter share of time"), [_share(one.parameter_s, one.input_s) for one in found]),
        numbers("Saved, parameter half", [one.parameter_bytes for one in found], BYTES),
        numbers("Saved, input half", [one.input_bytes for one in found], BYTES),
        (Column("Parameter share of saved memory"), [_share(one.parameter_bytes, one.input_bytes) for one in found]),
    ]
    return table("The two halves", [column for column in columns if any(cell.sort is not None for cell in column[1])])


def _halves(key: str, shape: str, group: pd.DataFrame) -> Halves:
    forward, parametrize = _phase(group, "forward"), _phase(group, "parametrize")
    marks = [doubt(entry) for entry in (forward, parametrize) if entry is not None]
    time = _value(parametrize, "median_s")
    return Halves(
        key, shape, time, _value(forward, "median_s") - time,
        _first(group, "saved_parameter_half_bytes"), _first(group, "saved_input_half_bytes"), next(filter(None, marks), ""),
    )  # fmt: skip


def _share(part: float, rest: float) -> Cell:
    """The part of the whole. Both were measured apart, so that a difference may come out a little below zero."""
    whole = part + rest
    if not math.isfinite(whole) or whole <= 0:
        return Cell()
    share = min(1.0, max(0.0, part / whole))
    return Cell(f"{100 * share:.0f} %", share, share=share)


def epochs(rows: pd.DataFrame, published: pd.DataFrame, labels: Mapping[str, str]) -> Table | None:
    """Seconds per epoch of networks beside the paper's, each relative to one method that both have; None without networks."""
    steps = rows[(rows["network"] != "") & (rows["phase"] == "step") & rows["median_s"].notna() & ~rows["interpreted"]]
    paper = with_columns(published, PUBLISHED)
    found = []
    for step in steps.to_dict("records"):
        dataset = paper[paper["dataset"] == DATASETS.get(number(step["image_size"]), "")]  # type: ignore[call-overload]
        images = pd.to_numeric(dataset["train_images"], errors="coerce").dropna()
        here = dataset[(dataset["layer"] == step["title"]) & (dataset["size"] == step["network"])]
        seconds = pd.to_numeric(here["train_seconds_per_epoch"], errors="coerce").dropna()
        if not images.empty and step["batch_size"] > 0:
            epoch = step["median_s"] * float(images.iloc[0]) / step["batch_size"]
            theirs = float(seconds.iloc[0]) if len(seconds) else math.nan
            found.append((step["series"], step["method"], step["shape"], epoch, theirs, bool(step["contended"])))
    if not found:
        return None
    data = pd.DataFrame(found, columns=["series", "method", "shape", "ours", "theirs", "contended"])
    columns = [
        names(list(data["series"]), labels),
        (Column("Network", numeric=False), [Cell(shape, float(place)) for place, shape in enumerate(data["shape"])]),
        numbers("This run", list(data["ours"]), (("s/epoch", 1.0),), marks=[CONTENDED * doubt for doubt in data["contended"]]),
        numbers("Paper, A100", list(data["theirs"]), (("s/epoch", 1.0),)),
    ]
    for base, column, title in ((YARDSTICK, "ours", "This run"), *((_pivot(data), who, what) for who, what in
                                (("ours", "This run"), ("theirs", "Paper")))):  # fmt: skip
        divisors = data[data["method"] == base].drop_duplicates("shape").set_index("shape")[column]
        values = (data[column] / data["shape"].map(divisors)).astype(float)
        if values.notna().any():
            label = next((labels[key] for key, method in zip(data["series"], data["method"]) if method == base), base)
            columns.append((Column(f"{title} ÷ {label}"), [ratio(value) for value in values]))
    return table(
        "Seconds per epoch", columns, ["An epoch here is the training step times the number of batches; no data loading."]
    )


def _pivot(data: pd.DataFrame) -> str:
    """The method that epochs are divided by on both sides: AOL, or else the first that the paper also has."""
    both = list(data[data["theirs"].notna()]["method"])
    return "aol" if "aol" in both or not both else str(both[0])
