"""Tables of measurements: relative costs, plain numbers, shares of the two halves, scores, and epochs beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from lipbench_reports import certificates
from lipbench_reports.cells import (
    BYTES,
    CONTENDED,
    COUNTS,
    INTERPRETED,
    TIMES,
    Cell,
    Column,
    Table,
    alike,
    digits,
    estimated,
    heads,
    interval,
    named,
    numbers,
    placed,
    ratio,
    significant_digits,
    table,
)  # fmt: skip
from lipbench_reports.costs import AXES, MEASURES, Costs
from lipbench_reports.intervals import Estimate
from lipbench_reports.prepared import CaseRows, Prepared
from lipbench_reports.tables import PUBLISHED, YARDSTICK, number, with_columns

PHASE_TITLES = {
    "forward": "forward", "backward": "backward", "step": "training step", "parametrize": "parameter half",
    "inference": "inference", "first_inference": "first inference",
}  # fmt: skip

RATES = (("k images/s", 1e3), ("images/s", 1.0))
DATASETS = {32: "cifar", 64: "tiny_imagenet"}
"""Image size → the paper's data set with images of that size."""


def summary(ready: Prepared, found: Costs) -> Table | None:
    """Each series relative to the reference, by geometric mean over the common shapes; None without a reference."""
    if found.reference is None:
        return None
    keys = [one.key for one in found.series]
    columns = [named(keys, ready.labels)]
    for measure in MEASURES:
        if not found.comparisons[measure.title].entries:
            continue
        entries = [found.of(measure.title, one) for one in found.series]
        columns.append((Column(measure.title.capitalize()), [estimated(entry.estimate, entry.mark) for entry in entries]))
    columns += certificates.in_summary(ready, keys, found.yardsticks)
    shapes = [max((found.of(measure.title, one).shapes for measure in MEASURES), default=0) for one in found.series]
    columns.append((Column("Shapes"), [Cell(str(count), float(count)) for count in shapes]))
    failed = ready.failed_cases["series"].value_counts()
    columns.append((Column("Failed cases"), [Cell(str(failed.get(key, 0)), float(failed.get(key, 0))) for key in keys]))
    return table(f"Cost relative to {found.reference.label}", columns)


def scores(ready: Prepared, found: Costs) -> tuple[Table, dict[str, dict[str, float]]] | None:
    """Scores from 1 to 5, as a table and by series and axis, for the axes with ranked series; None without any."""
    axes = [(axis, measure.title) for axis, measure in zip(AXES, MEASURES) if found.ranking(measure.title)]
    values = {one.key: {axis: found.score(title, one) for axis, title in axes} for one in found.series}
    values = {key: entries for key, entries in values.items() if any(math.isfinite(score) for score in entries.values())}
    if not axes or not values:
        return None
    columns = [named(list(values), ready.labels)]
    for axis, _ in axes:
        column = [entries[axis] for entries in values.values()]
        cells = [Cell(f"{score:.1f}", score) if math.isfinite(score) else Cell() for score in column]
        columns.append((Column(axis.capitalize()), cells))
    return table("Scores from 1 to 5", columns), values


def plain_numbers(ready: Prepared, caption: str, with_shape: bool) -> Table | None:
    """Times by phase, peaks and sizes, one row per case; `with_shape` adds a column for the shape.

    All times are in one unit, and so are all bytes.
    """
    cases = ready.cases
    if not cases:
        return None
    columns = [named([case.series for case in cases], ready.labels)]
    if with_shape:
        columns.append(placed([case.shape for case in cases]))
    phases = {phase: [case.phase(phase) for case in cases] for phase in PHASE_TITLES}
    times = [_value(entry, "median_s") for entries in phases.values() for entry in entries]
    columns += [_with_range(capitalized(PHASE_TITLES[phase]), entries, times) for phase, entries in phases.items()]
    rates = [_value(entry, "images_per_s") for entry in phases["inference"]]
    columns.append(numbers("Throughput", rates, RATES, marks=[doubt(entry) for entry in phases["inference"]]))
    columns.append(numbers("MACs, forward", [_value(entry, "macs") for entry in phases["forward"]], COUNTS))
    columns += alike(
        {
            "Training peak": [_value(entry, "peak_memory_bytes") for entry in phases["step"]],
            "Inference peak": [_value(entry, "peak_memory_bytes") for entry in phases["inference"]],
            "Saved for backward": [case.first("saved_memory_bytes") for case in cases],
            "Parameters": [case.first("parameter_bytes") for case in cases],
        },
        BYTES,
    )
    return table(caption, [column for column in columns if any(cell.sort is not None for cell in column[1])])


HELD = {
    "Parameters": "parameter_bytes", "Buffers": "buffer_bytes", "Gradients": "gradient_bytes",
    "Optimizer state": "optimizer_bytes", "Input": "input_bytes", "Output": "output_bytes",
    "Saved for backward": "saved_memory_bytes", "Peak, forward": "forward", "Peak, backward": "backward",
    "Peak, training step": "step", "cuBLAS workspaces": "workspace_bytes", "Reserved": "reserved_memory_bytes",
    "Process": "process_memory_bytes",
}  # fmt: skip
"""Title → what holds memory in training: a column of the step's row, or a phase whose peak it is."""


def held(ready: Prepared) -> Table | None:
    """Memory of a training step by what holds it, one row per case, all in one unit; None if no case has it."""
    columns = [
        named([case.series for case in ready.cases], ready.labels),
        placed([case.shape for case in ready.cases]),
        *alike({
            title: [case.value(source, "peak_memory_bytes") if source in PHASE_TITLES else case.first(source)
                    for case in ready.cases]
            for title, source in HELD.items()
        }, BYTES),
    ]  # fmt: skip
    columns = [column for column in columns if any(cell.sort is not None for cell in column[1])]
    notes = ["The columns overlap: what is saved for the backward pass includes weights and input where autograd keeps them."]
    if ready.rows["workspace_bytes"].notna().any():
        notes.append("Workspaces that PyTorch keeps for cuBLAS are not part of any peak; Reserved and Process include them.")
    return table("What holds the memory of a training step", columns, notes) if len(columns) > 2 else None


def capitalized(text: str) -> str:
    """The text with its first letter in upper case and the others unchanged."""
    return f"{text[:1].upper()}{text[1:]}"


def _with_range(title: str, entries: list[pd.Series | None], beside: Sequence[float]) -> tuple[Column, list[Cell]]:
    """A column of times, with their intervals and the number of quiet rounds in small print, in a unit that suits `beside`."""
    column, cells = numbers(title, [_value(entry, "median_s") for entry in entries], TIMES, beside=beside)
    size = dict(TIMES).get(column.unit, 1.0)
    noted = []
    for cell, entry in zip(cells, entries):
        if entry is None or cell.sort is None:
            noted.append(cell)
            continue
        found = Estimate(entry["median_s"], entry["low_s"], entry["high_s"])
        note = ", ".join(filter(None, (interval(found, size), _quiet(entry))))
        text = digits(found.value / size, significant_digits(found))
        noted.append(Cell(text, cell.sort, note=note, mark=doubt(entry)))
    return column, noted


def _quiet(entry: pd.Series) -> str:
    """ "4 of 5 quiet", where other processes were busy in some rounds."""
    quiet, rounds = entry["quiet_rounds"], entry["rounds"]
    return f"{quiet:.0f} of {rounds:.0f} quiet" if quiet < rounds else ""


def doubt(entry: pd.Series | None) -> str:
    """The mark of an unreliable time; "" for a reliable one."""
    if entry is None:
        return ""
    return INTERPRETED if entry["interpreted"] else CONTENDED if entry["contended"] else ""


def _value(entry: pd.Series | None, column: str) -> float:
    return math.nan if entry is None else float(entry[column])


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


def shares(ready: Prepared) -> Table | None:
    """The shares of the two halves in time and saved memory, one row per case; None if no case has a parameter half."""
    found = [_halves(case) for case in ready.cases]
    found = [one for one in found if math.isfinite(one.input_s) or math.isfinite(one.parameter_bytes + one.input_bytes)]
    if not found:
        return None
    marks = [one.mark for one in found]
    columns = heads([(one.series, one.shape) for one in found], ready.labels)
    times = {"Time, parameter half": [one.parameter_s for one in found], "Time, input half": [one.input_s for one in found]}
    saved = {"Saved, parameter half": [one.parameter_bytes for one in found],
             "Saved, input half": [one.input_bytes for one in found]}  # fmt: skip
    columns += [
        *alike(times, TIMES, marks),
        (Column("Parameter share of time"), [_share(one.parameter_s, one.input_s, one.mark) for one in found]),
        *alike(saved, BYTES),
        (Column("Parameter share of saved memory"), [_share(one.parameter_bytes, one.input_bytes) for one in found]),
    ]
    return table("The two halves", [column for column in columns if any(cell.sort is not None for cell in column[1])])


def _halves(case: CaseRows) -> Halves:
    forward, parametrize = case.phase("forward"), case.phase("parametrize")
    marks = [doubt(entry) for entry in (forward, parametrize)]
    time = _value(parametrize, "median_s")
    return Halves(
        case.series, case.shape, time, _value(forward, "median_s") - time,
        case.first("saved_parameter_half_bytes"), case.first("saved_input_half_bytes"), next(filter(None, marks), ""),
    )  # fmt: skip


def _share(part: float, rest: float, mark: str = "") -> Cell:
    """The share of `part` in the whole, from 0 to 1. `rest`, a difference of two measurements, may be slightly negative."""
    whole = part + rest
    if not math.isfinite(whole) or whole <= 0:
        return Cell()
    share = min(1.0, max(0.0, part / whole))
    return Cell(f"{100 * share:.0f} %", share, mark=mark, share=share)


def epochs(ready: Prepared) -> Table | None:
    """Seconds per epoch of networks beside the paper's, also relative to one method that both have; None without networks."""
    rows, labels = ready.rows, ready.labels
    steps = rows[(rows["network"] != "") & (rows["phase"] == "step") & rows["median_s"].notna() & ~rows["interpreted"]]
    paper = with_columns(ready.tables.published, PUBLISHED)
    found = []
    for step in steps.to_dict("records"):
        dataset = paper[paper["dataset"] == DATASETS.get(number(step["image_size"]), "")]  # type: ignore[call-overload]  # a value of any kind
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
        named(list(data["series"]), labels),
        placed(list(data["shape"]), "Network"),
        numbers("This run", list(data["ours"]), (("s/epoch", 1.0),), marks=_contended(data["contended"])),
        numbers("Paper, A100", list(data["theirs"]), (("s/epoch", 1.0),)),
    ]
    for base, column, title in ((YARDSTICK, "ours", "This run"), *((_pivot(data), who, what) for who, what in
                                (("ours", "This run"), ("theirs", "Paper")))):  # fmt: skip
        divisors = data[data["method"] == base].drop_duplicates("shape").set_index("shape")[column]
        values = (data[column] / data["shape"].map(divisors)).astype(float)
        busy = set(data.loc[(data["method"] == base) & data["contended"], "shape"])
        doubtful = (data["contended"] | data["shape"].isin(busy)) & (column == "ours")
        if values.notna().any():
            label = next((labels[key] for key, method in zip(data["series"], data["method"]) if method == base), base)
            columns.append((Column(f"{title} ÷ {label}"), [
                ratio(value, mark) for value, mark in zip(values, _contended(doubtful))
            ]))  # fmt: skip
    return table(
        "Seconds per epoch",
        columns,
        ["An epoch here is the time of a training step times the number of batches, without data loading."],
    )


def _contended(flags: Iterable[bool]) -> list[str]:
    return [CONTENDED if flag else "" for flag in flags]


def _pivot(data: pd.DataFrame) -> str:
    """The method by which epochs are divided on both sides: AOL, or else the first that the paper also has."""
    both = list(data[data["theirs"].notna()]["method"])
    return "aol" if "aol" in both or not both else str(both[0])
