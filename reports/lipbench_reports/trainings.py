"""Trainings prepared for tables and figures: groups of trainings that differ in the seed alone, and the arenas they compete in.

Only trainings of one arena are compared: the same data, size of network, loss, budget and kind of machine. They are ranked by
certified robust accuracy at 36/255. A method whose 95 % interval over seeds overlaps that of another has no place of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lipbench_reports.intervals import Estimate
from lipbench_reports.tables import Trained, as_text, network_title, number, typed, with_columns
from lipbench_reports.verdict import listing

ARENA = ("dataset", "network", "loss", "budget", "all_images", "device", "threads")
"""the columns in which compared trainings agree"""
RADII = ("36", "72", "108", "255")
"""radii of certified robust accuracy in units of 1/255, for pixels in [0, 1]"""
CERTIFIED = tuple(f"cra_{radius}" for radius in RADII)
ATTACKED = tuple(f"attacked_{radius}" for radius in RADII)
RANKED_BY = CERTIFIED[0]
TEXTS = (
    "method", "title", "implementation", "network", "dataset", "loss", "budget", "budget_unit", "precision", "device", "group",
    "training", "status", "reason", "verdict", "unproven", "attack", "machine", "version", "started", "part",
)  # fmt: skip
FLAGS = ("all_images", "compiled", "final", "below_certified")
_VARIANTS = (
    ("kernel_size", "kernel {}"), ("batch_size", "batch {}"), ("learning_rate", "rate {:.3g}"),
    ("weight_decay", "decay {:.3g}"),
)  # fmt: skip
"""columns, and how their values are written in the label of a group where groups of one method and arena differ in them"""


@dataclass(frozen=True)
class Group:
    """Trainings that differ in the seed alone."""

    key: str
    """its identifier within this report; opaque"""
    label: str
    """the method, and what distinguishes the group from others of the same method in its arena"""
    row: Mapping[str, object]
    """its row of `Trained.table`, with one type per column"""

    def text(self, column: str) -> str:
        return as_text(self.row[column])

    def value(self, column: str) -> float:
        """A number; NaN if it is unknown."""
        found = self.row[column]
        return float(found) if isinstance(found, int | float) else math.nan

    def estimate(self, column: str) -> Estimate:
        """A share with its interval over seeds."""
        return Estimate(*(self.value(f"{column}{end}") for end in ("", "_low", "_high")))

    @property
    def identity(self) -> str:
        """The text in the column `group` of every frame."""
        return self.text("group")

    @property
    def hindrance(self) -> str:
        """Why the group is not ranked; "" if it is."""
        trainings, seeds = int(self.value("trainings")), int(self.value("seeds"))
        if self.row["below_certified"]:
            return "an attack left less accuracy than was certified"
        if trainings == 1 and not seeds:
            return "its training gave no result"
        if seeds < trainings:
            return f"{trainings - seeds} of {trainings} trainings gave no result"
        return "" if math.isfinite(self.value(RANKED_BY)) else "no certificate"


@dataclass(frozen=True)
class Arena:
    """Groups that may be compared with each other."""

    words: str
    """what they have in common"""
    groups: tuple[Group, ...]

    @property
    def ranked(self) -> list[Group]:
        """The groups that may be ranked, the one with the largest certified robust accuracy first."""
        return sorted((one for one in self.groups if not one.hindrance), key=lambda one: -one.value(RANKED_BY))

    def place(self, one: Group) -> str:
        """ "2", or "2–4" for a tie; "" for a group that is not ranked, or alone."""
        first, last = one.value("place_first"), one.value("place_last")
        if not math.isfinite(first) or len(self.ranked) < 2:
            return ""
        return f"{first:.0f}" if first == last else f"{first:.0f}–{last:.0f}"


def frame(given: pd.DataFrame, numbers: Iterable[str] = ()) -> pd.DataFrame:
    """A frame of trainings with one type per column: texts, flags, and floats with NaN for missing values.

    `numbers` are further columns with numbers; in a learning curve, `loss` is one.
    """
    numbers = tuple(numbers)
    shares = [f"{name}{end}" for name in ("accuracy", *CERTIFIED, *ATTACKED) for end in ("", "_low", "_high")]
    plain = ["kernel_size", "batch_size", "threads", "learning_rate", "weight_decay", "seed", "trainings", "seeds",
             "parameters", "epochs", "seconds_per_epoch", "peak_bytes", "images_per_second", "constant", "attacked_images",
             "place_first", "place_last", "budget_amount", *published_columns()]  # fmt: skip
    found = with_columns(given, dict.fromkeys([*TEXTS, *FLAGS, *shares, *plain, *numbers]))
    kinds = {**dict.fromkeys(TEXTS, "str"), **dict.fromkeys(FLAGS, "boolean"), **dict.fromkeys(numbers, "float64")}
    return pd.DataFrame({name: typed(found[name], kinds.get(name, "float64")) for name in found}).reset_index(drop=True)


def published_columns() -> list[str]:
    """The columns with the paper's results at its three budgets."""
    return [f"published_{name}_{hours}h" for hours in (2, 10, 24) for name in ("accuracy", RANKED_BY)] + ["published_epochs_2h"]


def arenas(trained: Trained, order: Sequence[str] = ()) -> list[Arena]:
    """The arenas of a report: those with the most groups first, the groups in the order of the registered methods."""
    table = frame(trained.table)
    place = {name: number for number, name in enumerate(order)}
    rows = table.assign(place=table["method"].map(lambda name: place.get(name, len(place))))
    rows = rows.sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)
    keys = [f"training-{number}" for number in range(len(rows))]
    differing = [name for name in ARENA if rows[name].nunique(dropna=False) > 1]
    found = []
    for _, own in rows.groupby(list(ARENA), sort=False, dropna=False):
        labels = _labels(own)
        groups = tuple(
            Group(keys[int(str(place))], label, row)
            for place, label, row in zip(own.index, labels, own.to_dict("records"))
        )  # fmt: skip
        found.append(Arena(_words(groups[0], differing), groups))
    return sorted(found, key=lambda one: -len(one.groups))


def _labels(own: pd.DataFrame) -> list[str]:
    """The labels of the groups of one arena. The last resort is a number, so that no two are the same."""
    labels = []
    for _, row in own.iterrows():
        twins = own[(own["title"] == row["title"]) & (own["method"] == row["method"])]
        usual = (("implementation", "paper"), ("precision", "ieee"))
        parts = [as_text(row[column]) for column, default in usual if row[column] not in (default, "")]
        parts += ["compiled"] if row["compiled"] else []
        parts += [words.format(number(row[column])) for column, words in _VARIANTS if twins[column].nunique() > 1]
        labels.append(" · ".join([row["title"] or row["method"] or "a network", *parts]))
    return [f"{label} · {place}" if labels.count(label) > 1 else label for place, label in enumerate(labels, 1)]


CONDITIONS: Mapping[str, tuple[str, Callable[[Group], str]]] = {
    "dataset": ("Data", lambda one: one.text("dataset")),
    "network": ("Network", lambda one: network_title(one.text("network"))),
    "loss": ("Loss", lambda one: f"{one.text('loss')} loss"),
    "budget": ("Budget", lambda one: one.text("budget")),
    "all_images": ("Trained on", lambda one: "all images" if one.row["all_images"] else "without validation images"),
    "device": ("Device", lambda one: f"on {one.text('device')}"),
    "threads": ("Threads", lambda one: "1 thread" if one.value("threads") == 1 else f"{one.value('threads'):.0f} threads"),
}
"""column of `ARENA` → its title, and its value in words"""
_ALWAYS = ("network", "loss", "budget")
"""conditions that are always named"""


def _words(one: Group, differing: Iterable[str]) -> str:
    """What the trainings of an arena have in common; other conditions are named where they differ in the report."""
    apart = {*_ALWAYS, *differing} - {"dataset"}
    return f"{one.text('dataset')} ({', '.join(words(one) for name, (_, words) in CONDITIONS.items() if name in apart)})"


def places(table: pd.DataFrame) -> dict[str, list[float]]:
    """`place_first` and `place_last` of each row of a table, within its arena; NaN where it is not ranked.

    A group is behind those whose interval lies above its own, and before those whose interval lies below. Without intervals,
    every place is possible.
    """
    rows = frame(table)
    first, last = ([math.nan] * len(rows) for _ in range(2))
    for _, own in rows.groupby(list(ARENA), sort=False, dropna=False):
        groups = {int(str(place)): Group("", "", row) for place, row in zip(own.index, own.to_dict("records"))}
        ranked = {place: one.estimate(RANKED_BY) for place, one in groups.items() if not one.hindrance}
        for place, mine in ranked.items():
            others = [other for other in ranked.values() if not mine.overlaps(other)]
            above = sum(other.value > mine.value for other in others)
            first[place], last[place] = 1 + above, len(ranked) - (len(others) - above)
    return {"place_first": first, "place_last": last}


def sentence(arena: Arena) -> str:
    """Which of the ranked methods certified most and least, as far as the intervals tell them apart; "" for nothing to say.

    Methods that are not ranked are named with their value, if they have one, and with the reason.
    """
    ranking = arena.ranked
    barred = [f"{one.label} ({_worth(one)}{one.hindrance})" for one in arena.groups if one.hindrance]
    rest = f" Not ranked: {listing(barred)}." if barred else ""
    where = f"On {arena.words}: "
    if len(ranking) < 2:
        only = [f"{one.label} is the only method that is ranked, with a CRA at 36/255 of {_share(one)}." for one in ranking]
        return f"{where}{next(iter(only), 'no method is ranked.')}{rest}"
    best, worst = (one.estimate(RANKED_BY) for one in (ranking[0], ranking[-1]))
    ends = f"{_share(ranking[-1])} to {_share(ranking[0])}"
    if not all(one.estimate(RANKED_BY).is_known for one in ranking):
        few = f"the means of CRA at 36/255 of {len(ranking)} methods go from {ends}"
        return f"{where}{few}; none is named the best, because an interval needs three seeds.{rest}"
    first = [one.label for one in ranking if one.estimate(RANKED_BY).overlaps(best)]
    last = [one.label for one in ranking if one.estimate(RANKED_BY).overlaps(worst)]
    if len(first) == len(ranking):
        return f"{where}the intervals of all {len(ranking)} ranked methods overlap in CRA at 36/255 ({ends}).{rest}"
    alike, alike_last = (" (intervals overlap)" if len(names) > 1 else "" for names in (first, last))
    said = f"of {len(ranking)} ranked methods, {listing(first)} certified most at 36/255{alike}, up to {_share(ranking[0])}"
    return f"{where}{said}; {listing(last)} certified least{alike_last}, down to {_share(ranking[-1])}.{rest}"


def _share(one: Group) -> str:
    return f"{100 * one.value(RANKED_BY):.1f}\u00a0%"


def _worth(one: Group) -> str:
    return f"{_share(one)}, " if math.isfinite(one.value(RANKED_BY)) else ""
