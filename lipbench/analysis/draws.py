"""Searches as tables: one row per draw, and one per final training."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lipbench import external
from lipbench.answer import Answer
from lipbench.cases import network_of
from lipbench.train.search import Options, Search
from lipbench.train.studies import Drawn
from lipbench.train.task import RADII, TrainingCase, TrainingRecord, radius_key

CERTIFIED = {f"certified_{round(radius * 255)}": radius_key(radius) for radius in RADII}
"""column → the key of its radius in `Evaluation.certified`"""
COLUMNS = (
    "study", "part", "method", "implementation", "size", "dataset", "loss", "budget", "draw", "seed", "best", "learning_rate",
    "weight_decay", "status", "reason", "accuracy", *CERTIFIED, "seconds", "epochs", "training",
)  # fmt: skip
"""part: validation for draws, test for final trainings · draw, seed: their number · certified_36: at a radius of 36/255"""
NOTHING = "–"


def frame(searches: Sequence[Search]) -> pd.DataFrame:
    """One row per draw and one per final training, with `COLUMNS`, unrounded; accuracies are shares."""
    rows = pd.DataFrame([row for search in searches for row in _rows(search)], columns=list(COLUMNS))
    kinds = {"draw": "Int64", "seed": "Int64", "best": "boolean", **dict.fromkeys(("accuracy", *CERTIFIED), "Float64")}
    return rows.astype(kinds)


def _rows(search: Search) -> Iterator[dict[str, Any]]:
    for rung in search.rungs:
        for _, one in sorted(rung.results.items()):
            yield {
                "study": rung.study, "part": "validation", **_of_case(search.template), "budget": str(rung.budget),
                "draw": one.index, "seed": search.template.seed, "best": one == search.best, "status": one.status,
                "learning_rate": one.learning_rate, "weight_decay": one.weight_decay, "reason": one.reason,
                "accuracy": one.accuracy, "certified_36": one.certified if one.status == "ok" else None,
                "seconds": one.seconds, "epochs": one.epochs, "training": one.training,
            }  # fmt: skip
    for record in search.finals:
        found, case = record.evaluation, record.case
        yield {
            "study": search.rungs[-1].study, "part": "test", **_of_case(case), "budget": str(case.budget),
            "draw": search.best.index if search.best else None, "seed": case.seed, "best": True, "status": record.status,
            "learning_rate": case.learning_rate, "weight_decay": case.weight_decay,
            "reason": record.reason or (found.reason if found else ""), "accuracy": found.accuracy if found else None,
            **{name: found.certified.get(key) if found else None for name, key in CERTIFIED.items()},
            "seconds": record.seconds, "epochs": record.epochs, "training": case.id,
        }  # fmt: skip


def _of_case(case: TrainingCase) -> dict[str, str]:
    network = case.network
    return {"method": network.method, "implementation": network.implementation, "size": network_of(network),
            "dataset": case.dataset, "loss": case.loss}  # fmt: skip


def answer(searches: Sequence[Search], options: Options) -> Answer:
    """The table of a search, with the best draw and the final trainings of each network.

    It has failed where no draw of a network, or not every final training, ended well.
    """
    readable = pd.DataFrame([row for search in searches for row in _readable(search)])
    problems = tuple(problem for search in searches for problem in _problems(search))
    return Answer(frame(searches), readable, tuple(_remarks(searches, options)), problems, failed=bool(problems))


def _readable(search: Search) -> Iterator[dict[str, str]]:
    case, network = search.template, search.template.network
    common = {
        "Method": external.shown(network.method),
        "Implementation": network.implementation,
        "Size": network_of(network),
        "Loss": case.loss,
    }
    for rung in search.rungs:
        for _, one in sorted(rung.results.items()):
            draw = f"{one.index} best" if one == search.best else str(one.index)
            yield {**common, "Budget": str(rung.budget), "Draw": draw, **_readable_draw(one)}
    if search.finals:
        yield {**common, **_readable_finals(search.finals)}


def _readable_draw(one: Drawn) -> dict[str, str]:
    ended = one.status == "ok"
    return {
        "Learning rate": f"{one.learning_rate:.3g}", "Weight decay": f"{one.weight_decay:.3g}",
        "Accuracy": f"{100 * one.accuracy:.1f} %" if one.accuracy is not None else NOTHING,
        "CRA 36/255": f"{100 * one.certified:.1f} %" if ended else NOTHING, **dict.fromkeys(_titles()[1:], ""),
        "Status": one.status,
    }  # fmt: skip


def _titles() -> list[str]:
    return [f"CRA {round(radius * 255)}/255" for radius in RADII]


def _readable_finals(finals: Sequence[TrainingRecord]) -> dict[str, str]:
    """Means and standard deviations over the seeds."""
    ended = [record.evaluation for record in finals if record.evaluation]
    case, count = finals[0].case, len(finals)
    certified = [[one.certified[key] for one in ended if key in one.certified] for key in CERTIFIED.values()]
    bad = [record.status for record in finals if record.status != "ok"]
    return {
        "Budget": str(case.budget), "Draw": f"test, {count} {'seed' if count == 1 else 'seeds'}",
        "Learning rate": f"{case.learning_rate:.3g}", "Weight decay": f"{case.weight_decay:.3g}",
        "Accuracy": _spread([one.accuracy for one in ended]),
        **{title: _spread(values) for title, values in zip(_titles(), certified, strict=True)},
        "Status": "ok" if not bad else f"{len(bad)} of {count}: {bad[0]}",
    }  # fmt: skip


def _spread(shares: Sequence[float]) -> str:
    """Mean of shares in percent, with their standard deviation where there are several."""
    if not shares:
        return NOTHING
    spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{spread} %"


def _remarks(searches: Sequence[Search], options: Options) -> Iterator[str]:
    rates, decays = options.space.learning_rate, options.space.weight_decay
    yield "Draws: trained without the held-out images, chosen by CRA at 36/255 on these; draw n has the same rates in all rows."
    yield (
        f"Learning rate from {rates[0]:.3g} to {rates[1]:.3g}, weight decay from {decays[0]:.3g} to {decays[1]:.3g}, "
        "uniform in the logarithm."
    )
    yield "Test: the best draw trained on all training images; mean ± standard deviation over the seeds."
    for search in searches if options.halving > 1 else ():
        used, plain = search.seconds
        name = f"{search.template.network.slug}, {search.template.loss}"
        what = f"{used:.3g} s in {len(search.results)} trainings; every draw on the full budget takes about {plain:.3g} s"
        yield f"Halving, {name}: {what}. Saved: {_saved(used, plain)}."


def _saved(used: float, plain: float) -> str:
    return f"{plain - used:.3g} s ({100 * (1 - used / plain):.0f} %)" if plain else "nothing"


def _problems(search: Search) -> Iterator[str]:
    name = f"{search.template.network.slug}, {search.template.loss}"
    if search.best is None:
        reasons = list(dict.fromkeys(one.reason for one in search.results))
        yield f"no draw ended well for {name}: {reasons[0]}"
    elif not search.best.certified:
        why = f": {search.best.reason}" if search.best.reason else ""
        yield f"no draw for {name} has a certified image, so accuracy decided{why}"
    yield from (f"{record.status}: {record.case.id}: {record.reason}" for record in search.finals if record.status != "ok")
