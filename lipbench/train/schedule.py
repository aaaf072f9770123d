"""The budget of a training as a share that has elapsed, and the learning rate as a function of that share."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from lipbench.train.task import Budget

WARM_UP = 0.3
"""share of the budget during which the rate rises"""
START, END = 1 / 25, 1 / 25e4
"""factors of the peak rate at the start and at the end"""
RECENT_STEPS = 20


def one_cycle(share: float) -> float:
    """Factor of the peak learning rate at the elapsed share, from 0 to 1.

    Source: the default of PyTorch's `OneCycleLR`, two half waves of a cosine: 1/25 → 1 in the first 30 %, then → 1/25e4. The
    published runs step it once an epoch, and these every step.
    """
    if share < WARM_UP:
        return _wave(START, 1.0, share / WARM_UP)
    return _wave(1.0, END, min(1.0, (share - WARM_UP) / (1 - WARM_UP)))


def _wave(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def epochs_in(hours: float, seconds_per_epoch: float) -> int:
    """Epochs that fit into a time, rounded to the nearest number as in the published budgets (arXiv 2311.16833, Appendix C)."""
    return round(hours * 3600 / seconds_per_epoch)


@dataclass
class Pace:
    """How much of a budget is used, and whether another step belongs to it."""

    budget: Budget
    steps_per_epoch: float
    steps: int = 0
    """done"""
    seconds: float = 0.0
    """training time used"""
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))

    @property
    def total_steps(self) -> int:
        """Steps of the whole budget; 0 for a budget in seconds."""
        amount = self.budget.amount
        return {"steps": int(amount), "epochs": math.ceil(amount * self.steps_per_epoch - 1e-9), "seconds": 0}[self.budget.unit]

    @property
    def share(self) -> float:
        """The share of the budget that is used, from 0 to 1."""
        used = self.seconds / self.budget.amount if self.budget.unit == "seconds" else self.steps / self.total_steps
        return min(1.0, used)

    @property
    def is_over(self) -> bool:
        """Whether no further step belongs to the budget: for seconds, where it would end further from them than now."""
        if self.budget.unit != "seconds":
            return self.steps >= self.total_steps
        step = median(self._recent) if self._recent else 0.0
        return self.seconds + step / 2 >= self.budget.amount

    def step(self, seconds: float) -> None:
        """Count a step and the training time that it took."""
        self.steps += 1
        self.spend(seconds)
        self._recent.append(seconds)

    def spend(self, seconds: float) -> None:
        """Count training time that belongs to no single step."""
        self.seconds += seconds
