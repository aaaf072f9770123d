"""The section of the report on trainings: its sentences, tables and figures, by the names that its template uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lipbench_reports import accuracy, radar, training_figures
from lipbench_reports.look import Look
from lipbench_reports.tables import Trained
from lipbench_reports.trainings import ATTACKED, Arena


def section(
    trained: Trained,
    arenas: Sequence[Arena],
    looks: Mapping[str, Look],
    profile: Mapping[tuple[str, str], Mapping[str, float]],
) -> dict[str, object] | None:
    """Everything that the template shows; None where nothing was trained.

    `profile` has the scores of costs by method, implementation and axis.
    """
    if trained.trainings.empty:
        return None
    scored = accuracy.scores(arenas[0], profile) if arenas else None
    groups = [one for arena in arenas for one in arena.groups]
    labels = {one.key: one.label for one in groups}
    keys = {(one.text("method"), one.text("implementation")): one.key for one in groups}
    drawings = {
        "curves": training_figures.learning_curves(arenas, trained.curves, looks),
        "radius": training_figures.against_radius(arenas, trained.trainings, trained.quantiles, looks),
        "costs": training_figures.against_cost(arenas, looks),
    }
    return {
        "sentences": accuracy.verdict(arenas, len(arenas)) or ["No training was evaluated on test images."],
        "results": accuracy.results(arenas),
        "same_time": accuracy.same_time(arenas),
        "without": accuracy.without_result(trained.trainings, arenas),
        "draws": accuracy.draws(trained.trainings, keys),
        "attacked": any(one.estimate(name).value >= 0 for one in groups for name in ATTACKED),
        "has_published": any(one.value("published_accuracy_2h") >= 0 for one in groups),
        "several": len(arenas) > 1,
        "most": training_figures.MOST_ARENAS,
        "left_out": max(0, len(arenas) - training_figures.MOST_ARENAS),
        **drawings,
        "drawn": [key for key in labels if any(key in one.series for own in drawings.values() for one in own)],
        "scores": scored,
        "radars": radar.radars(scored.values, labels, looks, "six") if scored else [],
        "labels": labels,
    }
