"""The verdict of a report: sentences made from the numbers of a run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lipbench_reports.cells import carried
from lipbench_reports.costs import MEASURES, Costs, Relative
from lipbench_reports.intervals import Estimate
from lipbench_reports.prepared import Prepared, Series
from lipbench_reports.tables import LOWER_BOUND, Tables, as_texts


def verdict(ready: Prepared, found: Costs) -> list[str]:
    """The opening sentences of a report."""
    so_far = _so_far(ready.tables)
    rows = ready.rows
    if found.reference is None:
        return [*so_far, _nothing_worked(ready), *(_unfit(ready) if len(rows) else [])]
    return [
        *so_far,
        *_first_places(found, "training step", "trained fastest", "step time"),
        *_first_places(found, "inference", "had the cheapest inference", "time"),
        *_memory(found),
        *_unranked(rows, found),
        *_left_out(found),
        *_unfit(ready),
        *_barred(ready.tables, found),
        *_uncertain(rows, found),
    ]


def unfinished(tables: Tables) -> tuple[int, int]:
    """The number of cases that have not run and the number of planned cases, each 0 where it is unknown."""
    left = len(as_texts(tables.run.get("unfinished")))
    planned = tables.run.get("planned")
    return left, planned if isinstance(planned, int) and planned > 0 else 0


def _so_far(tables: Tables) -> list[str]:
    left, planned = unfinished(tables)
    sentences = []
    if left:
        sentences.append(
            f"{planned - left} of {planned} cases so far." if planned > left else f"{cases(left)} have not run yet."
        )
    if begun := len(as_texts(tables.run.get("incomplete"))):
        sentences.append(
            f"{cases(begun)} {'is' if begun == 1 else 'are'} not complete: rounds, MACs or certificates are missing."
        )
    return sentences


def cases(count: int) -> str:
    """ "1 case", "2 cases"."""
    return "1 case" if count == 1 else f"{count} cases"


def _nothing_worked(ready: Prepared) -> str:
    if ready.rows["interpreted"].any():
        return "Nothing was timed: Triton kernels ran in Triton's interpreter."
    failed = len(ready.failed_cases)
    if failed:
        return "The only case gave no measurement." if failed == 1 else f"None of the {failed} cases gave a measurement."
    return "No case has run yet." if len(ready.rows) else "The run holds no case."


def _first_places(found: Costs, measure: str, deed: str, what: str) -> list[str]:
    """Which of the ranked methods were the fastest and the slowest, as far as the intervals tell them apart.

    A method that is shown and not ranked is named where its ratio lies beyond theirs.
    """
    ranking = found.ranking(measure)
    if not ranking:
        return []
    base = found.reference.label if found.reference else ""
    best, worst = ranking[0][1].estimate, ranking[-1][1].estimate
    if len(ranking) == 1:
        only = f"{ranking[0][0].label} is the only method whose {measure} could be ranked"
        return [f"{only}." if found.reference == ranking[0][0] else f"{only}: {carried(best)} times the {what} of {base}."]
    if not all(entry.estimate.is_known for _, entry in ranking):
        return [f"By {measure}, no method is named the fastest: a ratio of one round has no interval."]
    first = [one.label for one, entry in ranking if entry.estimate.overlaps(best)]
    last = [one.label for one, entry in ranking if entry.estimate.overlaps(worst)]
    if len(first) == len(ranking):
        return [f"By {measure}, the intervals of all {len(ranking)} ranked methods overlap ({_range(ranking)} times {base})."]
    alike = " (their intervals overlap)" if len(first) > 1 else ""
    sentence = f"Of {len(ranking)} ranked methods, {listing(first)} {deed}{alike}, at {carried(best)} "
    sentence += f"times the {what} of {base}"
    slowest = "the slowest" if len(last) == 1 else "the slowest (their intervals overlap)"
    sentence += f"; {listing(last)} {'was' if len(last) == 1 else 'were'} {slowest}, at {carried(worst)} times"
    beyond = _beyond(found, measure, best, worst)
    return [f"{sentence}." + (f" Not ranked: {listing(beyond)}." if beyond else "")]


def _range(ranking: Sequence[tuple[Series, Relative]]) -> str:
    return f"{carried(ranking[0][1].estimate)} to {carried(ranking[-1][1].estimate)}"


def _beyond(found: Costs, measure: str, best: Estimate, worst: Estimate) -> list[str]:
    """The methods that are shown and not ranked, whose ratio is below the best or above the worst of the ranked ones."""
    comparison = found.comparisons[measure]
    entries = [(one, found.of(measure, one).estimate) for one in found.series
               if one.key not in comparison.ranked and one.key not in found.yardsticks]  # fmt: skip
    return [f"{one.label} at {carried(own)}" for one, own in entries if own.value < best.value or own.value > worst.value]


def _memory(found: Costs) -> list[str]:
    ranking = found.ranking("training memory")
    if len(ranking) < 2 or found.reference is None:
        return []
    (least, low), (most, high) = ranking[0], ranking[-1]
    base = found.reference.label
    return [
        f"Training memory goes from {low.ratio:.3g} ({least.label}) to {high.ratio:.3g} ({most.label}) times that of {base}."
    ]


def _unranked(rows: pd.DataFrame, found: Costs) -> list[str]:
    """The times by which no method is ranked, and why."""
    timed = rows[rows["median_s"].notna()]
    if len(timed) and timed["unwatched"].all():
        how = ", one process" if timed["rounds"].max() <= 1 else ""
        return [f"Contention was not watched{how}: times are shown and not ranked; profile with lipbench profile."]
    reasons: dict[str, list[str]] = {}
    for measure in MEASURES:
        if measure.timed and not found.comparisons[measure.title].ranked:
            reasons.setdefault(found.comparisons[measure.title].hindrance, []).append(measure.title)
    return [f"No method is ranked by its {listing(measures)}: {reason}." for reason, measures in reasons.items()]


def _left_out(found: Costs) -> list[str]:
    """The methods that are not ranked because they lack shapes of the others, by all measures or by some."""
    ranked = [measure.title for measure in MEASURES if found.comparisons[measure.title].ranked]
    where: dict[tuple[str, str], list[str]] = {}
    for title in ranked:
        for key, reason in (found.comparisons[title].left_out or {}).items():
            where.setdefault((key, reason), []).append(title)
    said: dict[tuple[str, ...], list[str]] = {}
    labels = {one.key: one.label for one in found.series}
    for (key, reason), measures in where.items():
        said.setdefault(tuple(measures), []).append(f"{labels[key]} ({reason})")
    return [
        f"Not ranked{'' if list(measures) == ranked else f' by {listing(measures)}'}: {listing(names)}."
        for measures, names in said.items()
    ]


def _unfit(ready: Prepared) -> list[str]:
    tables, rows, labels, failed = ready.tables, ready.rows, ready.labels, ready.failures
    sentences = []
    full = failed[failed["status"] == "out_of_memory"]
    places = [f"{shape}, {phases}" if phases else shape for shape, phases in zip(full["shape"], full["failed"])]
    unfit = full.assign(place=places).groupby("series", sort=False)["place"].agg(list)
    if len(unfit):
        where = [f"{labels[str(key)]} ({'; '.join(shapes)})" for key, shapes in unfit.items()]
        sentences.append(f"Out of memory: {listing(where)}.")
    others = failed[~failed["status"].isin(["out_of_memory", "skipped", "unsupported", "not_lipschitz"])]
    others = others.drop_duplicates(["series", "shape"])
    if len(others):
        names = listing(list(dict.fromkeys(labels[key] for key in others["series"])))
        sentences.append(f"{cases(len(others))} crashed, ran out of time or raised an error ({names}).")
    complete = failed.empty and len(rows) and not _so_far(tables) and not (rows["status"] == "").any()
    if complete and not as_texts(tables.run.get("problems")):
        sentences.append("Every case was measured.")
    return sentences


def _barred(tables: Tables, found: Costs) -> list[str]:
    so_far = " so far" if _so_far(tables) else ""
    reasons = {"not 1-Lipschitz": excluded(found), f"without a certificate{so_far}": unproven(found)}
    return [f"Not ranked, because {reason}: {listing(names)}." for reason, names in reasons.items() if names]


def excluded(found: Costs) -> list[str]:
    """Labels of series that are not 1-Lipschitz, each with the shapes."""
    return [f"{one.label} ({shapes_of(found.excluded[one.key])})" for one in found.series if one.key in found.excluded]


def unproven(found: Costs) -> list[str]:
    """Labels of series without a certificate."""
    return [one.label for one in found.series if one.key in found.unproven]


def _uncertain(rows: pd.DataFrame, found: Costs) -> list[str]:
    """A sentence on the ranked series that are not known to be 1-Lipschitz; [] if there are none."""
    bounded = {str(key) for key in rows.loc[rows["certificate_kind"] == LOWER_BOUND, "series"]}
    ranked = frozenset().union(*(one.ranked for one in found.comparisons.values()))
    sampled = [one.label for one in found.series if one.key in ranked & bounded]
    return [f"{listing(sampled)} could not be certified: samples showed no violation."] if sampled else []


def compared(found: Costs) -> list[tuple[str, str]]:
    """The shapes over which methods are ranked, each list with its measures; measures with the same shapes are grouped."""
    by_shapes: dict[str, list[str]] = {}
    for title, comparison in found.comparisons.items():
        if comparison.ranked:
            by_shapes.setdefault(_all_shapes(comparison.shapes), []).append(title)
    return [("" if len(by_shapes) == 1 else listing(titles), shapes) for shapes, titles in by_shapes.items()]


MOST_SHAPES = 12
"""number of shapes that are named one by one"""


def _all_shapes(shapes: Sequence[str]) -> str:
    """ "16 ch; 32 ch", or the number of shapes with the first and the last where they are many."""
    return "; ".join(shapes) if len(shapes) <= MOST_SHAPES else f"{len(shapes)} shapes, from {shapes[0]} to {shapes[-1]}"


def shapes_of(shapes: Sequence[str]) -> str:
    """Shapes as text: up to three by name, more by their number."""
    return f"at {'; '.join(shapes)}" if len(shapes) <= 3 else f"at {len(shapes)} shapes"


def listing(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
