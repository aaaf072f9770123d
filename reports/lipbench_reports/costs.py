"""What each series costs relative to one of them, who comes first, and the scores of the radar.

Only like is compared with like: a ratio is the geometric mean over the shapes at which both series were measured. Timings taken
beside a busy process are kept apart: they give a ratio only where there is no other, and then it is marked and ranks nowhere.
What was interpreted gives none. What `torch.compile` made of a method is compared with the method alone, in `compilation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lipbench_reports.tables import LOWER_BOUND, Series, as_written, failures, reference, series_of, uncertified, unclaimed


@dataclass(frozen=True)
class Measure:
    """A cost: the column of one phase's rows."""

    title: str
    phase: str
    column: str
    timed: bool
    """timings can be contended, bytes cannot"""


MEASURES = (
    Measure("training step", "step", "median_s", True),
    Measure("inference", "inference", "median_s", True),
    Measure("training memory", "step", "peak_memory_bytes", False),
    Measure("inference memory", "inference", "peak_memory_bytes", False),
)
AXES = ("training speed", "inference speed", "training memory", "inference memory")
"""The measures as merits: more is better."""

ALIKE = 0.10
"""Costs this close are not told apart: the rounds of one case may differ by as much before a warning is due."""


@dataclass(frozen=True)
class Relative:
    """The cost of one series relative to the reference."""

    ratio: float
    shapes: int
    """over how many shapes the geometric mean was taken"""
    contended: bool = False


NOTHING = Relative(math.nan, 0)


@dataclass(frozen=True)
class Costs:
    """All relative costs of a run, and who may be ranked by them."""

    series: Sequence[Series]
    reference: Series | None
    relative: Mapping[str, Mapping[str, Relative]]
    """by measure title, then by series key"""
    excluded: Mapping[str, str]
    """series that are not ranked because they claim to be 1-Lipschitz and are not, and where they are not"""
    yardsticks: frozenset[str]
    """series that make no claim to be 1-Lipschitz; they are compared with, not ranked"""

    def of(self, measure: str, series: Series) -> Relative:
        return self.relative[measure].get(series.key, NOTHING)

    def ranking(self, measure: str) -> list[tuple[Series, Relative]]:
        """Who may be ranked, cheapest first."""
        entries = [(one, self.of(measure, one)) for one in self.series if one.key not in {*self.excluded, *self.yardsticks}]
        valid = [entry for entry in entries if math.isfinite(entry[1].ratio) and not entry[1].contended]
        return sorted(valid, key=lambda entry: entry[1].ratio)

    def score(self, measure: str, series: Series) -> float:
        """5 for no more than the reference, a point less per doubling, 1 from a factor of 16 on; NaN if not ranked."""
        ranked = {one.key: entry.ratio for one, entry in self.ranking(measure)}
        if series.key not in ranked:
            return math.nan
        return min(5.0, max(1.0, 5 - math.log2(ranked[series.key])))


def costs(rows: pd.DataFrame, methods: pd.DataFrame) -> Costs:
    """The costs of prepared rows."""
    rows = as_written(rows)
    series = series_of(rows, methods)
    base = reference(rows, series)
    yardsticks = frozenset(one.key for one in series if one.method in unclaimed(methods))
    return Costs(
        series=series,
        reference=base,
        relative={measure.title: relative(rows, measure, base) for measure in MEASURES},
        excluded={key: shape for key, shape in uncertified(rows).items() if key not in yardsticks},
        yardsticks=yardsticks,
    )


def relative(rows: pd.DataFrame, measure: Measure, base: Series | None) -> dict[str, Relative]:
    """Each series relative to `base` over their common shapes."""
    chosen = rows[(rows["phase"] == measure.phase) & (rows[measure.column] > 0) & ~rows["interpreted"]]
    if base is None or chosen.empty:
        return {}
    values = chosen.pivot_table(index="shape", columns="series", values=measure.column, aggfunc="median")
    doubts = chosen.assign(doubt=(chosen["contended"] & measure.timed).astype(float))
    contended = doubts.pivot_table(index="shape", columns="series", values="doubt", aggfunc="max") > 0
    if base.key not in values:
        return {}
    result = {}
    for key in values.columns:
        both = values[[base.key]].notna().all(axis=1) & values[key].notna()
        clean = both & ~contended[key] & ~contended[base.key]
        used = clean if clean.any() else both
        if used.any():
            logs = np.log(values.loc[used, key].to_numpy() / values.loc[used, base.key].to_numpy())
            result[str(key)] = Relative(float(np.exp(logs.mean())), int(used.sum()), not clean.any())
    return result


def verdict(rows: pd.DataFrame, found: Costs, labels: Mapping[str, str]) -> list[str]:
    """Sentences that say what the run shows, from its numbers alone; `labels` are those of all series, compiled ones too."""
    if found.reference is None:
        return [_nothing_worked(rows), *(_unfit(rows, labels) if len(rows) else [])]
    return [
        *_first_places(found, "training step", "trained fastest", "step time"),
        *_first_places(found, "inference", "had the cheapest inference", "time"),
        *_unranked(found),
        *_memory(found),
        *_unfit(rows, labels),
        *_barred(found),
        *_uncertain(rows, found),
    ]


def _nothing_worked(rows: pd.DataFrame) -> str:
    if rows["interpreted"].any():
        return "Nothing was timed: Triton kernels ran in their interpreter."
    return f"None of the {len(failures(rows))} cases gave a measurement." if len(rows) else "The run holds no case."


def _first_places(found: Costs, measure: str, deed: str, what: str) -> list[str]:
    ranking = found.ranking(measure)
    if not ranking:
        return []
    best = ranking[0][1].ratio
    first = [one.label for one, entry in ranking if entry.ratio <= best * (1 + ALIKE)]
    base = found.reference.label if found.reference else ""
    if len(ranking) == 1 and found.reference == ranking[0][0]:
        return [f"{base} is the only method whose {measure} could be ranked."]
    alike = f" (within {ALIKE:.0%}, not told apart)".replace("%", " %") if len(first) > 1 else ""
    sentence = f"{listing(first)} {deed}{alike}, at {best:.3g} times the {what} of {base}"
    last, worst = ranking[-1]
    if len(ranking) > len(first):
        sentence += f"; {last.label} was the slowest, at {worst.ratio:.3g} times"
    return [f"{sentence}."]


def _unranked(found: Costs) -> list[str]:
    """Times by which nobody is ranked, and why."""
    without = [measure for measure in MEASURES if measure.timed and not found.ranking(measure.title)]
    busy = any(entry.contended for measure in without for entry in found.relative[measure.title].values())
    why = "the machine was busy" if busy else "nothing comparable was measured"
    return [f"No method is ranked by its {listing([measure.title for measure in without])}: {why}."] if without else []


def _memory(found: Costs) -> list[str]:
    ranking = found.ranking("training memory")
    if len(ranking) < 2 or found.reference is None:
        return []
    (least, low), (most, high) = ranking[0], ranking[-1]
    base = found.reference.label
    return [
        f"Training memory goes from {low.ratio:.3g} ({least.label}) to {high.ratio:.3g} ({most.label}) times that of {base}."
    ]


def _unfit(rows: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    failed = failures(rows)
    sentences = []
    unfit = failed[failed["status"] == "out_of_memory"].groupby("series", sort=False)["shape"].agg(list)
    if len(unfit):
        where = [f"{labels[str(key)]} ({'; '.join(shapes)})" for key, shapes in unfit.items()]
        sentences.append(f"Out of memory: {listing(where)}.")
    others = failed[~failed["status"].isin(["out_of_memory", "skipped", "unsupported", "not_lipschitz"])]
    if len(others):
        names = listing(list(dict.fromkeys(labels[key] for key in others["series"])))
        cases = "1 case" if len(others) == 1 else f"{len(others)} cases"
        sentences.append(f"{cases} crashed, ran out of time or raised an error ({names}).")
    if failed.empty and len(rows):
        sentences.append("Every case was measured.")
    return sentences


def _barred(found: Costs) -> list[str]:
    names = [one.label for one in found.series if one.key in found.excluded]
    return [f"Not ranked, because not 1-Lipschitz: {listing(names)}."] if names else []


def _uncertain(rows: pd.DataFrame, found: Costs) -> list[str]:
    """Who is ranked without being known to be 1-Lipschitz."""
    ranked = [one for one in found.series if one.key not in {*found.excluded, *found.yardsticks}]
    known = rows[rows["certificate"].notna()]
    bounded = {str(key) for key in known.loc[known["certificate_kind"] == LOWER_BOUND, "series"]}
    sampled = [one.label for one in ranked if one.key in bounded]
    measured = set(rows.loc[rows["phase"] != "", "series"])
    unseen = [one.label for one in ranked if one.key in measured - set(known["series"])]
    sentences = [f"{listing(sampled)} could not be certified: samples showed no violation."] if sampled else []
    return [*sentences, *([f"Without a certificate: {listing(unseen)}."] if unseen else [])]


def listing(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
