"""Candidates held against constraints: which satisfy them and by how much, which rank first, and what relaxing one would win.

A candidate is a network that could be trained. It has a worth, the certified robust accuracy, and costs. Each number has its
evidence, and may be unknown or a mere bound: then a constraint on it gives "cannot tell", never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lipbench_reports.intervals import Estimate
from lipbench_reports.pareto import front

from lipbench.cases import ExternalNetworkSpec, NetworkSpec
from lipbench.prediction.memory import with_unit

Evidence = Literal["published", "predicted", "measured", ""]
Bound = Literal["at least", "at most", ""]
Verdict = Literal["ok", "cannot tell", "fails"]
VERDICTS: tuple[Verdict, ...] = ("ok", "cannot tell", "fails")


@dataclass(frozen=True)
class Figure:
    """One number of a candidate, in SI units or as a share from 0 to 1."""

    value: float = math.nan
    evidence: Evidence = ""
    """where it comes from; "" for a number that is not known"""
    bound: Bound = ""
    """what the number is to the true one; "" where it stands for it"""
    why: str = ""
    """why the number is not known"""
    low: float = math.nan
    high: float = math.nan
    """ends of its 95 % interval, where it has one"""

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Quantity:
    """A cost that can be constrained."""

    name: str
    """name of its column"""
    title: str
    limits_above: bool
    """whether a constraint is the largest value that is allowed; False: the smallest"""
    written: Callable[[float], str]
    """a value with its unit"""

    @property
    def worse(self) -> Bound:
        """The kind of bound beyond which the true number can only be worse."""
        return "at least" if self.limits_above else "at most"


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 999.5 else f"{value:.3g} s"


def _rate(value: float) -> str:
    return f"{value:,.0f} images/s" if value >= 999.5 else f"{value:.3g} images/s"


MEMORY = Quantity("training_peak_bytes", "Training memory", True, with_unit)
EPOCH = Quantity("epoch_s", "Epoch", True, _seconds)
THROUGHPUT = Quantity("inference_images_per_s", "Inference", False, _rate)
QUANTITIES = (MEMORY, EPOCH, THROUGHPUT)


@dataclass(frozen=True)
class Candidate:
    """A network that could be trained."""

    spec: NetworkSpec | ExternalNetworkSpec
    label: str
    worth: Figure
    """certified robust accuracy at 36/255"""
    costs: Mapping[str, Figure] = field(default_factory=dict)
    """name of a quantity → its value"""
    accuracy: float = math.nan
    """share of the test images, from the same source as `worth`; NaN where that is not known"""

    def cost(self, quantity: Quantity) -> Figure:
        return self.costs.get(quantity.name, Figure(why="not known"))


@dataclass(frozen=True)
class Constraint:
    """A limit on one quantity."""

    quantity: Quantity
    limit: float

    def margin(self, figure: Figure) -> float:
        """How far a number is within the limit, in the unit of the quantity: negative outside it, NaN where it is unknown."""
        return (self.limit - figure.value) if self.quantity.limits_above else (figure.value - self.limit)

    def verdict(self, figure: Figure) -> Verdict:
        """Whether a number satisfies the constraint, as far as it is known."""
        margin = self.margin(figure)
        if math.isnan(margin):
            return "cannot tell"
        if figure.bound == self.quantity.worse:
            return "fails" if margin < 0 else "cannot tell"
        if margin >= 0:
            return "ok"
        return "cannot tell" if figure.bound else "fails"


@dataclass(frozen=True)
class Judged:
    """A candidate with its verdict on each constraint, by the name of the quantity."""

    candidate: Candidate
    verdicts: Mapping[str, Verdict]

    @property
    def verdict(self) -> Verdict:
        """'ok' if every constraint is satisfied, and the worth is known."""
        if "fails" in self.verdicts.values():
            return "fails"
        known = self.candidate.worth.is_known and "cannot tell" not in self.verdicts.values()
        return "ok" if known else "cannot tell"

    @property
    def worth(self) -> float:
        return self.candidate.worth.value


def judged(candidates: Sequence[Candidate], constraints: Sequence[Constraint]) -> list[Judged]:
    """All candidates: those that satisfy the constraints, those that may, those that do not; each by worth, then by memory."""
    found = [
        Judged(one, {limit.quantity.name: limit.verdict(one.cost(limit.quantity)) for limit in constraints})
        for one in candidates
    ]

    def order(one: Judged) -> tuple[float, ...]:
        taken = one.candidate.cost(MEMORY).value
        unknown = (math.isnan(one.worth), math.isnan(taken))
        return (
            VERDICTS.index(one.verdict),
            unknown[0],
            0 if unknown[0] else -one.worth,
            unknown[1],
            0 if unknown[1] else taken,
        )

    return sorted(found, key=order)


def winner(found: Sequence[Judged]) -> Judged | None:
    """The first of the candidates that satisfy every constraint; None where there is none."""
    return found[0] if found and found[0].verdict == "ok" else None


def equals(found: Sequence[Judged], best: Judged) -> list[Judged]:
    """Other candidates that satisfy every constraint and whose interval of worth is known and overlaps that of the best."""

    def interval(one: Judged) -> Estimate:
        worth = one.candidate.worth
        return Estimate(worth.value, worth.low, worth.high)

    own = interval(best)
    others = [one for one in found if one is not best and one.verdict == "ok" and interval(one).is_known]
    return [one for one in others if own.is_known and own.overlaps(interval(one))]


@dataclass(frozen=True)
class Relaxation:
    """What one constraint alone keeps out: with the limit `needed` instead, a candidate would rank first."""

    constraint: Constraint
    needed: float
    candidate: Candidate
    gain: float
    """its worth above that of the winner; NaN where there is no winner"""


def relaxations(found: Sequence[Judged], constraints: Sequence[Constraint]) -> Iterator[Relaxation]:
    """Of each constraint: the smallest relaxation that lets a better candidate in, and the one that lets the best in."""
    best = winner(found)
    for constraint in constraints:
        name = constraint.quantity.name
        kept_out = [
            one.candidate for one in found
            if one.candidate.worth.is_known and (best is None or one.worth > best.worth)
            and not one.candidate.cost(constraint.quantity).bound
            and all(verdict == ("fails" if other == name else "ok") for other, verdict in one.verdicts.items())
        ]  # fmt: skip
        if not kept_out:
            continue
        nearest = max(kept_out, key=lambda one: (constraint.margin(one.cost(constraint.quantity)), one.worth.value))
        highest = max(kept_out, key=lambda one: (one.worth.value, constraint.margin(one.cost(constraint.quantity))))
        for one in (nearest,) if nearest is highest else (nearest, highest):
            gain = one.worth.value - best.worth if best else math.nan
            yield Relaxation(constraint, one.cost(constraint.quantity).value, one, gain)


def on_front(candidates: Sequence[Candidate], quantity: Quantity) -> list[Candidate]:
    """The candidates on the Pareto front of worth against a cost that is to be small, cheapest first.

    Costs of two kinds of evidence, or bounds and values, are not compared: only those of the kind that most candidates have.
    """
    known = [one for one in candidates if one.worth.is_known and one.cost(quantity).is_known]
    kinds = [(one.cost(quantity).evidence, one.cost(quantity).bound) for one in known]
    alike = [one for one, kind in zip(known, kinds) if kind == max(kinds, key=kinds.count)]
    points = {str(place): (one.cost(quantity).value, one.worth.value) for place, one in enumerate(alike)}
    return [alike[int(key)] for key in front(points)]
