"""Tables and scores of trainings: accuracy, certified robust accuracy, cost, and the paper's results beside one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lipbench_reports.cells import BYTES, COUNTS, TIMES, Cell, Column, Table, digits, named, numbers, table
from lipbench_reports.costs import AXES
from lipbench_reports.intervals import Estimate
from lipbench_reports.measurements import RATES
from lipbench_reports.trainings import ATTACKED, CERTIFIED, CONDITIONS, RADII, RANKED_BY, Arena, Group, frame, sentence
from lipbench_reports.verdict import listing

HOURS = (2, 10, 24)
"""the published training times"""
WORTH_AXES = ("accuracy", "certified accuracy")
POINTS = 0.05
"""accuracy below the best that takes one point of a score"""
COST_AXES = {AXES[0]: "seconds_per_epoch", AXES[1]: "images_per_second", AXES[2]: "peak_bytes"}
"""axes of the radar that trainings have a cost for; nothing in them measures the memory of inference"""


def results(arenas: Sequence[Arena]) -> Table | None:
    """The main table, one row per group of trainings; None without any."""
    entries = [(arena, one) for arena in arenas for one in arena.groups]
    if not entries:
        return None
    groups = [one for _, one in entries]
    columns = [named([one.key for one in groups], {one.key: one.label for one in groups})]
    columns += conditions(groups)
    columns.append((Column("Place"), [_place(one, arena) for arena, one in entries]))
    shares = {"Accuracy": "accuracy", **{f"CRA {radius}/255": name for radius, name in zip(RADII, CERTIFIED)},
              **{f"Attacked {radius}/255": name for radius, name in zip(RADII, ATTACKED)}}  # fmt: skip
    columns += [(Column(title, "%"), [share(one.estimate(name)) for one in groups]) for title, name in shares.items()]
    columns.append((Column("Constant"), [_constant(one) for one in groups]))
    columns.append((Column("Seeds"), [_seeds(one) for one in groups]))
    columns += [
        numbers("Epochs", [one.value("epochs") for one in groups]),
        numbers("Time per epoch", [one.value("seconds_per_epoch") for one in groups], TIMES),
        numbers("Training peak", [one.value("peak_bytes") for one in groups], BYTES),
        numbers("Parameters", [one.value("parameters") for one in groups], COUNTS),
        numbers("Inference", [one.value("images_per_second") for one in groups], RATES),
        *((Column(f"Paper, {hours} h", "%"), [_paper(one, hours) for one in groups]) for hours in HOURS),
        numbers("Paper, epochs in 2 h", [one.value("published_epochs_2h") for one in groups]),
    ]
    kept = [one for one in columns if any(cell.sort is not None for cell in one[1])]
    return table("Accuracy and certified robust accuracy", kept)


def conditions(groups: Sequence[Group]) -> list[tuple[Column, Sequence[Cell]]]:
    """The columns that name data, size, loss and budget, where groups differ in them."""
    found = [(title, [words(one) for one in groups]) for title, words in CONDITIONS.values()]
    return [
        (Column(title, numeric=False), [Cell(text, text) for text in texts]) for title, texts in found if len(set(texts)) > 1
    ]


def share(found: Estimate) -> Cell:
    """A share in %, with its interval over seeds in small print."""
    if not math.isfinite(found.value):
        return Cell()
    note = f"{_percent(found.low)}–{_percent(found.high)}" if found.is_known else ""
    return Cell(_percent(found.value), found.value, note=note)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "−")


def _place(one: Group, arena: Arena) -> Cell:
    text = arena.place(one)
    return Cell(text, one.value("place_first") + one.value("place_last")) if text else Cell()


def _constant(one: Group) -> Cell:
    value = one.value("constant")
    verdict = one.text("verdict")
    if not math.isfinite(value):
        return Cell("–", None, note=verdict)
    return Cell(f"{value:.4f}", value, note="" if verdict == "ok" else verdict)


def _seeds(one: Group) -> Cell:
    seeds, trainings = one.value("seeds"), one.value("trainings")
    return Cell(f"{seeds:.0f}" if seeds == trainings else f"{seeds:.0f} of {trainings:.0f}", seeds)


def _paper(one: Group, hours: int) -> Cell:
    """Accuracy, with certified robust accuracy at 36/255 in small print."""
    clean, certified = one.value(f"published_accuracy_{hours}h"), one.value(f"published_{RANKED_BY}_{hours}h")
    return Cell(_percent(clean), clean, note=f"CRA {_percent(certified)}") if math.isfinite(clean) else Cell()


def without_result(trainings: pd.DataFrame, arenas: Sequence[Arena]) -> Table | None:
    """Every final training that failed, is not finished or has no certified robust accuracy, with its reason; None for none."""
    rows = frame(trainings)
    lacking = rows[rows["final"] & ((rows["status"] != "ok") | rows[RANKED_BY].isna())]
    groups = {one.identity: one for arena in arenas for one in arena.groups}
    found = [(row, groups[row["group"]]) for row in lacking.to_dict("records") if row["group"] in groups]
    if not found:
        return None
    columns = [
        named([one.key for _, one in found], {one.key: one.label for _, one in found}),
        *conditions([one for _, one in found]),
        (Column("Seed"), [Cell(f"{row['seed']:.0f}", row["seed"]) for row, _ in found]),
        (Column("What happened", numeric=False), [_said("no certificate" if row["status"] == "ok" else row["status"])
                                                  for row, _ in found]),
        (Column("Reason", numeric=False), [_said(row["reason"] or row["unproven"] or "none was recorded") for row, _ in found]),
    ]  # fmt: skip
    return table("Trainings without a result", columns)


def _said(text: str) -> Cell:
    return Cell(text, text)


def draws(trainings: pd.DataFrame, keys: Mapping[tuple[str, str], str]) -> Table | None:
    """The draws of searches with their results on validation images; None for none.

    `keys` has the key of a group with the same marker, by method and implementation.
    """
    rows = frame(trainings)
    rows = rows[~rows["final"]].to_dict("records")
    if not rows:
        return None
    columns = [
        (Column("Method", numeric=False), [Cell(row["title"] or row["method"], row["title"],
                                                series=keys.get((row["method"], row["implementation"]))) for row in rows]),
        (Column("Trained on", numeric=False), [_said(f"{row['dataset']}, {row['network']}, {row['loss']} loss, {row['budget']}")
                                               for row in rows]),
        numbers("Learning rate", [row["learning_rate"] for row in rows]),
        numbers("Weight decay", [row["weight_decay"] for row in rows]),
        (Column("Accuracy", "%"), [share(Estimate(row["accuracy"])) for row in rows]),
        (Column("CRA 36/255", "%"), [share(Estimate(row[RANKED_BY])) for row in rows]),
        numbers("Epochs", [row["epochs"] for row in rows]),
        (Column("Status", numeric=False), [_said(": ".join(filter(None, (row["status"], row["reason"])))) for row in rows]),
    ]  # fmt: skip
    return table("Draws of searches, on validation images", columns)


def verdict(arenas: Sequence[Arena], most: int = 2) -> list[str]:
    """The sentences on the arenas with the most methods, and how many arenas have none here."""
    told = [sentence(one) for one in arenas[:most]]
    left = len(arenas) - most
    return [*told, *([f"{left} more comparisons of trainings are below."] if left > 1 else
                     ["1 more comparison of trainings is below."] if left == 1 else [])]  # fmt: skip


def same_time(arenas: Sequence[Arena]) -> list[str]:
    """Sentences on the numbers of epochs that fitted into equal times."""
    said = []
    for arena in arenas:
        known = [one for one in arena.groups if math.isfinite(one.value("epochs")) and one.value("seeds")]
        if len(known) < 2 or arena.groups[0].text("budget_unit") != "seconds":
            continue
        least, most = (end(known, key=lambda one: one.value("epochs")) for end in (min, max))
        ends = f"from {digits(least.value('epochs'))} ({least.label}) to {digits(most.value('epochs'))} ({most.label})"
        said.append(f"On {arena.words}, equal seconds gave different numbers of epochs, {ends}.")
    return said


@dataclass(frozen=True)
class Scores:
    """The scores of one arena."""

    arena: Arena
    table: Table
    values: Mapping[str, Mapping[str, float]]
    """key of a group → axis → score"""
    measured: str
    """the axes with costs of the profile, as text; "" for none"""
    trained: str
    """the axes with costs of the trainings, as text; "" for none"""
    lacking: str
    """the axes without a score, as text; "" for none"""


def scores(arena: Arena, profile: Mapping[tuple[str, str], Mapping[str, float]]) -> Scores | None:
    """Scores from 1 to 5 of the ranked groups, on the six axes of the paper's Figure 1 as far as they are known.

    `profile` has the scores of costs by method, implementation and axis. An axis is of the profile where that has a score for
    every ranked group, and of the trainings otherwise. None with fewer than two ranked groups.
    """
    ranked = [one for one in arena.groups if not one.hindrance]
    if len(ranked) < 2:
        return None
    axes = {axis: _below_best([one.value(name) for one in ranked]) for axis, name in zip(WORTH_AXES, ("accuracy", RANKED_BY))}
    measured, trained = [], []
    for axis in AXES:
        own = [profile.get((one.text("method"), one.text("implementation")), {}).get(axis, math.nan) for one in ranked]
        cheapest = _cheapest(axis, ranked) if axis in COST_AXES else []
        if all(map(math.isfinite, own)):
            axes[axis] = own
            measured.append(axis)
        elif any(map(math.isfinite, cheapest)):
            axes[axis] = cheapest
            trained.append(axis)
    values = {one.key: {axis: column[place] for axis, column in axes.items()} for place, one in enumerate(ranked)}
    columns = [named(list(values), {one.key: one.label for one in ranked})]
    columns += [(Column(axis.capitalize()), [Cell(f"{one:.1f}", one) if math.isfinite(one) else Cell() for one in column])
                for axis, column in axes.items()]  # fmt: skip
    lacking = [axis for axis in AXES if axis not in axes]
    return Scores(
        arena,
        table("Scores from 1 to 5", columns),
        values,
        *(listing(names) if names else "" for names in (measured, trained, lacking)),
    )


def _below_best(values: Sequence[float]) -> list[float]:
    best = max(values)
    return [max(1.0, 5 - (best - value) / POINTS) for value in values]


def _cheapest(axis: str, ranked: Sequence[Group]) -> list[float]:
    """5 for the cheapest group, one less for each doubling of its cost, 1 from a factor of 16 up; NaN for an unknown cost."""
    values = [one.value(COST_AXES[axis]) for one in ranked]
    costs = [1 / value if axis == AXES[1] and value > 0 else value for value in values]
    known = [cost for cost in costs if math.isfinite(cost) and cost > 0]
    return [max(1.0, 5 - math.log2(cost / min(known))) if math.isfinite(cost) and cost > 0 else math.nan for cost in costs]
