"""Which layer, in which size: the Answer of the verb `recommend`. The guidelines of arXiv 2311.16833, Section 6, as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from lipbench import errors, external, registry
from lipbench.analysis import judging
from lipbench.analysis.candidates import Ground, Question, candidates
from lipbench.analysis.judging import EPOCH, MEMORY, QUANTITIES, Candidate, Constraint, Figure, Judged, Quantity
from lipbench.answer import Answer
from lipbench.cases import PAPER, NetworkSpec, network_of
from lipbench.prediction import memory
from lipbench.store.records import Run
from lipbench.train.task import TrainingRecord

if TYPE_CHECKING:
    from lipbench_reports import front_figure

FRONTS = {EPOCH: "epoch_front", MEMORY: "memory_front"}
"""cost of a Pareto front → its column"""
SHOWN_ON_FRONT = {EPOCH: "time", MEMORY: "memory"}
EVIDENCE = {
    "published": "published: by arXiv 2311.16833, from one training each on an A100 (80 GB, PCIe) whose products the authors' "
    "PyTorch computed in TF32 where it does by default; the spread over seeds is not known.",
    "predicted": "predicted: counted on fake tensors; nothing was computed.",
    "measured": "measured: in the run.",
}
BOUND_REMARK = "≥ and ≤: a bound, which can rule a candidate out and never lets it pass."


@dataclass(frozen=True)
class Recommendation:
    """The candidates of a question in order, and what was asked."""

    ground: Ground
    constraints: tuple[Constraint, ...]
    found: tuple[Judged, ...]
    """best first"""
    fronts: dict[Quantity, list[Candidate]]
    """cost → the candidates on its Pareto front, cheapest first"""
    remarks: tuple[str, ...] = ()


def recommend(
    question: Question,
    limits: dict[Quantity, float],
    run: Run | None = None,
    trainings: Sequence[TrainingRecord] = (),
) -> Recommendation:
    """Rank the candidates under limits on their costs. Raises `LipbenchError` as `candidates.candidates` does."""
    ground, found, remarks = candidates(question, run, trainings, limits)
    constraints = tuple(Constraint(quantity, limits[quantity]) for quantity in QUANTITIES if quantity in limits)
    fronts = {quantity: judging.on_front(found, quantity) for quantity in FRONTS}
    return Recommendation(ground, constraints, tuple(judging.judged(found, constraints)), fronts, tuple(remarks))


def answer(made: Recommendation) -> Answer:
    """The table of candidates, best first, with the reasons of the others and what relaxing a constraint would win."""
    return Answer(_frame(made), _readable(made), (*_conclusions(made), "", *_explained(made), *made.remarks))


# ------------------------------------------------------------------------------------------------------------------ as a table


def _place(made: Recommendation, one: Judged) -> int | None:
    if one.verdict != "ok":
        return None
    return 1 + sum(other.verdict == "ok" and other.worth > one.worth for other in made.found)


def _reason(made: Recommendation, one: Judged) -> str:
    """Why a candidate is not the first; "" for the first."""
    best = judging.winner(made.found)
    told = [_against(one.candidate, limit) for limit in made.constraints if one.verdicts[limit.quantity.name] == one.verdict]
    if one.verdict != "ok":
        unknown = [] if one.candidate.worth.is_known else [f"CRA unknown: {one.candidate.worth.why}"]
        return "; ".join(told + (unknown if one.verdict == "cannot tell" else []))
    if best is None or one is best:
        return ""
    if one.worth == best.worth:
        return "equal CRA, more memory"
    return f"CRA {_points(best.worth - one.worth)} points below {best.candidate.label}"


def _against(one: Candidate, limit: Constraint) -> str:
    """A cost against a limit that it does not satisfy."""
    figure, quantity = one.cost(limit.quantity), limit.quantity
    if not figure.is_known:
        return f"{quantity.title.lower()} unknown: {figure.why}"
    if limit.verdict(figure) == "cannot tell":
        return f"{quantity.title.lower()} only known to be {figure.bound} {quantity.written(figure.value)}"
    side = "over" if quantity.limits_above else "below"
    return f"{quantity.title.lower()} {quantity.written(abs(limit.margin(figure)))} {side} {quantity.written(limit.limit)}"


def _frame(made: Recommendation) -> pd.DataFrame:
    """One row per candidate, best first, unrounded."""
    limits = {limit.quantity: limit for limit in made.constraints}
    rows = []
    for one in made.found:
        spec, worth = one.candidate.spec, one.candidate.worth
        row: dict[str, object] = {
            "place": _place(made, one), "method": spec.method, "implementation": spec.implementation,
            "network": network_of(spec), "image_size": spec.image_size, "batch_size": made.ground.batch_size,
            "dataset": made.ground.dataset, "verdict": one.verdict, "reason": _reason(made, one), "cra_36": worth.value,
            "cra_36_low": worth.low, "cra_36_high": worth.high, "cra_36_evidence": worth.evidence,
            "accuracy": one.candidate.accuracy,
        }  # fmt: skip
        for quantity in QUANTITIES:
            figure = one.candidate.cost(quantity)
            margin = limits[quantity].margin(figure) if quantity in limits else math.nan
            row |= {quantity.name: figure.value, f"{quantity.name}_evidence": figure.evidence,
                    f"{quantity.name}_bound": figure.bound, f"{quantity.name}_margin": margin}  # fmt: skip
        row |= {column: one.candidate in made.fronts[quantity] for quantity, column in FRONTS.items()}
        rows.append(row)
    return pd.DataFrame(rows).astype({"place": "Int64"})


def _readable(made: Recommendation) -> pd.DataFrame:
    limits = {limit.quantity: limit for limit in made.constraints}
    rows = []
    for one in made.found:
        place = _place(made, one)
        row = {
            "Place": one.verdict if place is None else f"{place}",
            "Network": one.candidate.label,
            "CRA 36": _worth(one.candidate),
            "Accuracy": f"{100 * one.candidate.accuracy:.1f}" if math.isfinite(one.candidate.accuracy) else "",
        }
        for quantity in QUANTITIES:
            row[quantity.title] = _cost(one.candidate.cost(quantity), quantity, limits.get(quantity))
        on = [SHOWN_ON_FRONT[quantity] for quantity, own in made.fronts.items() if one.candidate in own]
        rows.append({**row, "On the front of": ", ".join(on), "Why not first": _reason(made, one)})
    table = pd.DataFrame(rows)
    return table[[name for name in table if (table[name] != "").any()]]


def _worth(one: Candidate) -> str:
    if not one.worth.is_known:
        return ""
    reach = one.worth.high - one.worth.value
    return f"{100 * one.worth.value:.1f}{f' ± {100 * reach:.1f}' if math.isfinite(reach) else ''} {one.worth.evidence}"


def _value(figure: Figure, quantity: Quantity) -> str:
    """The value of a cost, with the sign of a bound."""
    return {"at least": "≥ ", "at most": "≤ ", "": ""}[figure.bound] + quantity.written(figure.value)


def _cost(figure: Figure, quantity: Quantity, limit: Constraint | None) -> str:
    """A cost with its evidence, and what is left of the limit where it satisfies one."""
    if not figure.is_known:
        return ""
    text = f"{_value(figure, quantity)} {figure.evidence}"
    if limit is None or limit.verdict(figure) != "ok":
        return text
    spare = limit.margin(figure)
    return f"{text}, {quantity.written(spare)} {'left' if quantity.limits_above else 'above'}"


def figure(made: Recommendation) -> str:
    """Accuracy against epoch time and training memory, with the fronts and limits, as an SVG file.

    Raises `LipbenchError` where no candidate has both an accuracy and a cost.
    """
    from lipbench_reports import front_figure
    from lipbench_reports.cells import BYTES

    units = {EPOCH: front_figure.SECONDS, MEMORY: BYTES}
    limits = {limit.quantity: limit.limit for limit in made.constraints}
    panels = [
        front_figure.Panel(quantity.title.lower(), units[quantity], points, limits.get(quantity))
        for quantity in FRONTS if (points := _points_of(made, quantity))
    ]  # fmt: skip
    if not panels:
        raise errors.nothing_to_draw()
    return front_figure.drawn(
        panels, list(registry.methods()), f"Certified robust accuracy against costs: {made.ground.trained}"
    )


def _points_of(made: Recommendation, quantity: Quantity) -> list[front_figure.Point]:
    """The candidates whose cost has the evidence of those on the front: others would not be comparable."""
    from lipbench_reports.front_figure import Point

    front = made.fronts[quantity]
    kind = {(one.cost(quantity).evidence, one.cost(quantity).bound) for one in front}
    found = []
    for one in made.found:
        cost, spec, label = one.candidate.cost(quantity), one.candidate.spec, one.candidate.label
        if one.candidate.worth.is_known and cost.is_known and (cost.evidence, cost.bound) in kind:
            size = network_of(spec)
            series = label.replace(f" {size}", "", 1)
            ok = one.verdict == "ok"
            found.append(Point(series, spec.method, spec.implementation, size, cost.value, 100 * one.worth,
                               one.candidate in front, ok))  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------------- in words


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _named(one: Candidate) -> str:
    return f"{one.label} ({_points(one.worth.value)} %)"


def _conclusions(made: Recommendation) -> list[str]:
    """What to take, what else may do, and what relaxing one constraint would win."""
    best = judging.winner(made.found)
    counts = {verdict: [one for one in made.found if one.verdict == verdict] for verdict in judging.VERDICTS}
    wanted = " and ".join(_limit(limit) for limit in made.constraints)
    under = f"with {wanted}" if wanted else "without any limit"
    if best is None:
        said = [f"No network is known to satisfy the question {under}."]
    else:
        said = [f"First {under}: {_named(best.candidate)}, of {len(counts['ok'])} that satisfy it; {made.ground.trained}."]
        same = [one.candidate.label for one in judging.equals(made.found, best)]
        said += [f"Its interval overlaps those of {', '.join(same)}."] if same else []
    open_ = [one for one in counts["cannot tell"] if one.candidate.worth.is_known and (not best or one.worth > best.worth)]
    if open_:
        names = ", ".join(_named(one.candidate) for one in open_[:3])
        more = f" and {len(open_) - 3} more" if len(open_) > 3 else ""
        better = " and would come before it" if best else ""
        said += [f"Not ruled out{better}: {names}{more}.", *_to_decide(made, open_[:3])]
    return [*said, *_relaxed(made), *_fronts(made)]


def _to_decide(made: Recommendation, open_: Sequence[Judged]) -> list[str]:
    """The measurement that decides about candidates, on the machine that the limits are about; [] for networks of others."""
    own = [
        spec for one in open_ if isinstance(spec := one.candidate.spec, NetworkSpec) and not external.is_external(spec.method)
    ]
    if not own:
        return []
    usual = NetworkSpec("aol", "XS")
    axes: dict[str, list[str]] = {"method": [spec.method for spec in own], "network": [spec.size for spec in own]}
    for name, values, default in (
        ("implementation", [spec.implementation for spec in own], PAPER),
        ("image-size", [str(spec.image_size) for spec in own], str(usual.image_size)),
        ("precision", [made.ground.precision], "ieee"),
    ):
        axes[name] = values if set(values) != {default} else []
    options = "".join(f" --{name} {','.join(dict.fromkeys(values))}" for name, values in axes.items() if values)
    command = f"lipbench profile{options} --batch-size {made.ground.batch_size} --out runs/open"
    return [f"To decide, measure them on your machine, and ask again with --run runs/open: {command}"]


def _limit(limit: Constraint) -> str:
    side = "at most" if limit.quantity.limits_above else "at least"
    return f"{limit.quantity.title.lower()} {side} {limit.quantity.written(limit.limit)}"


def _relaxed(made: Recommendation) -> list[str]:
    said = []
    for one in judging.relaxations(made.found, made.constraints):
        quantity = one.constraint.quantity
        gain = f", {_points(one.gain)} points more" if math.isfinite(one.gain) else ""
        change = f"{quantity.written(one.needed)} in place of {quantity.written(one.constraint.limit)}"
        said.append(f"With {quantity.title.lower()} {change}: {_named(one.candidate)}{gain}.")
    return said


def _fronts(made: Recommendation) -> list[str]:
    return [
        f"Pareto front of CRA against {quantity.title.lower()}: "
        + ", ".join(f"{_named(one)} at {_value(one.cost(quantity), quantity)}" for one in front) + "."
        for quantity, front in made.fronts.items() if len(front) > 1
    ]  # fmt: skip


def _explained(made: Recommendation) -> list[str]:
    """What the numbers are."""
    ground = made.ground
    costs = [(quantity, one.candidate.cost(quantity)) for one in made.found for quantity in QUANTITIES]
    timed = [figure for quantity, figure in costs if quantity is not MEMORY and figure.is_known]
    figures = [*(one.candidate.worth for one in made.found), *(figure for _, figure in costs)]
    used = {figure.evidence for figure in figures if figure.is_known}
    whose = ground.rates.name if ground.rates else f"run's machine ({ground.device})"
    said = [
        "CRA 36: certified robust accuracy at a radius of 36/255, in %. Training memory is the peak of a step "
        f"with {ground.batch_size} images"
    ]
    said += [f"times are those of the {whose} for {ground.batch_size} images at a time"] if timed else []
    said += [f"predicted ones in {ground.precision} precision"] if any(one.evidence == "predicted" for one in timed) else []
    return [
        f"{'; '.join(said)}.",
        *(text for evidence, text in EVIDENCE.items() if evidence in used),
        *([BOUND_REMARK] if any(figure.bound for figure in figures) else []),
        memory.NOTES[ground.device],
    ]
