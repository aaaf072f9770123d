"""Records of trainings that never took place, drawn from a seed, for tests of tables and reports."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from lipbench.cases import NetworkSpec
from lipbench.train.task import RADII, Attacked, Budget, Evaluation, Point, TrainingCase, TrainingRecord

WORTH = {"aol": 0.78, "bcop": 0.83, "cayley": 0.8, "cpl": 0.86, "lot": 0.84, "sll": 0.85, "soc": 0.9}
"""method → invented accuracy"""
COST = {"aol": 1.0, "bcop": 7.0, "cayley": 4.0, "cpl": 2.0, "lot": 9.0, "sll": 2.5, "soc": 5.0}
"""method → invented seconds per epoch"""


def case(method: str = "aol", seed: int = 0, **changed: Any) -> TrainingCase:
    network = NetworkSpec(method, changed.pop("size", "XS"), changed.pop("image_size", 8))
    values: dict[str, Any] = {"dataset": "digits", "budget": Budget("seconds", 60), "learning_rate": 0.05,
                              "weight_decay": 1e-5, "seed": seed}  # fmt: skip
    return TrainingCase(network, **values | changed)


def evaluation(accuracy: float, **changed: Any) -> Evaluation:
    """An evaluation whose certified radii are exponentially distributed, with a mean of 0.5."""
    certified = {f"{radius:.6g}": accuracy * math.exp(-2 * radius) for radius in RADII}
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    radii = [max(0.0, -math.log((1 - share) / accuracy) / 2) for share in shares]
    attacked = Attacked("PGD, 50 steps", RADII[0], accuracy * 0.93, 100, certified[f"{RADII[0]:.6g}"], accuracy)
    values: dict[str, Any] = {
        "part": "test", "images": 360, "accuracy": accuracy, "certified": certified, "constant": 0.999, "verdict": "ok",
        "reason": "", "margins": {f"{share:g}": radius for share, radius in zip(shares, radii)}, "images_per_second": 9000.0,
        "attacked": (attacked,),
    }  # fmt: skip
    return Evaluation(**values | changed)


def record(own: TrainingCase, accuracy: float = 0.8, **changed: Any) -> TrainingRecord:
    cost = COST.get(own.network.method, 3.0)
    seconds = 60.0
    times = np.linspace(seconds / 20, seconds, 20)
    held = not own.all_images
    curve = tuple(
        Point(int(10 * time), time / cost, float(time), 0.05, 2 * math.exp(-time / 20),
              *(accuracy * (1 - math.exp(-time / 10)) for _ in range(1 + held)),
              accuracy * 0.7 * (1 - math.exp(-time / 10)) if held else None) if held else
        Point(int(10 * time), time / cost, float(time), 0.05, 2 * math.exp(-time / 20), accuracy * (1 - math.exp(-time / 10)))
        for time in times
    )  # fmt: skip
    values: dict[str, Any] = {
        "status": "ok", "started": "2026-01-01T00:00:00Z", "machine": "an imaginary machine", "version": "0",
        "parameters": int(40000 * cost), "train_images": 1300, "steps": 600, "epochs": seconds / cost, "seconds": seconds,
        "loading_seconds": 1.5, "peak_bytes": int(2**20 * (10 + cost)), "curve": curve, "evaluation": evaluation(accuracy),
    }  # fmt: skip
    return TrainingRecord(own, **values | changed)


def several(seeds: int = 3, spread: float = 0.004, **changed: Any) -> list[TrainingRecord]:
    """One training per method and seed."""
    rng = np.random.default_rng(0)
    return [record(case(method, seed, **changed), worth + float(rng.normal(0, spread)))
            for method, worth in WORTH.items() for seed in range(seeds)]  # fmt: skip


def failed(own: TrainingCase, status: Any = "not finite", reason: str = "the loss became NaN at step 40") -> TrainingRecord:
    return replace(record(own), status=status, reason=reason, evaluation=None)


def everything() -> list[TrainingRecord]:
    """A folder with several data sets and losses, failures, a network without a certificate, and the draws of a search."""
    nothing = evaluation(0.7, certified={}, margins={}, constant=None, verdict="cannot tell", reason="no upper bound is known")
    drawn = evaluation(0.5, part="validation", attacked=())
    return [
        *several(all_images=False),
        failed(case("eco", 0)), record(case("eco", 1), 0.7), failed(case("sandwich"), "out of memory", "12 GiB were asked for"),
        record(case("standard"), 0.7, evaluation=nothing),
        *(record(case(method, dataset="cifar10", image_size=32, all_images=True), WORTH[method] - 0.1)
          for method in ("aol", "soc")),
        *(record(case("soc", loss="annealed", learning_rate=10**-place, weight_decay=10**-4), 0.5, evaluation=drawn)
          for place in range(1, 4)),
        failed(case("soc", loss="annealed", learning_rate=0.7)),
    ]  # fmt: skip
