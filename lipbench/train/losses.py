"""Losses that reward a margin: each a module of logits (b, classes) and labels (b,) → the mean over the batch, a scalar.

A network of Lipschitz constant L moves the difference of two logits by at most √2 L ε under a perturbation of norm ε. So √2 L
is the bound of a pair, and a margin for the radius ε is √2 L ε.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from lipbench.bounds import require_choice
from lipbench.train.task import LOSSES, RADII

PAIR = math.sqrt(2)
"""bound of a pair of logits of a 1-Lipschitz network"""


def build(name: str, classes: int, constant: float = 1.0) -> nn.Module:
    """The loss of a name in `task.LOSSES`, for a network with this Lipschitz constant from pixels to logits.

    Raises `LipbenchError` for an unknown name.
    """
    require_choice("loss", name, LOSSES)
    if name == "offset":
        return OffsetCrossEntropy(classes, 2 * PAIR * RADII[0] * constant)
    return LogitAnnealing(classes, 2 * PAIR * constant) if name == "annealed" else nn.CrossEntropyLoss()


def _lowered(logits: Tensor, labels: Tensor, classes: int, offset: float) -> Tensor:
    """The logits with the offset subtracted at the label."""
    return logits - offset * functional.one_hot(labels, classes).to(logits.dtype)


class OffsetCrossEntropy(nn.Module):
    """`T · CE((logits − margin at the label) / T)`, with the margin 2 √2 L · 36/255 and T = 0.25.

    Source: Prach & Lampert, arXiv 2208.03160, Section 5; the comparison paper (arXiv 2311.16833) trains with it.
    """

    def __init__(self, classes: int, margin: float, temperature: float = 0.25) -> None:
        super().__init__()
        self.classes, self.margin, self.temperature = classes, margin, temperature

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        lowered = _lowered(logits, labels, self.classes, self.margin)
        return self.temperature * functional.cross_entropy(lowered / self.temperature, labels)


class LogitAnnealing(nn.Module):
    """`−T (1 − p)^β log p`, p the softmax of `(logits − offset at the label) / T` at the label.

    T = 0.75, β = 5, and the offset is 2 bounds of a pair. The factor (1 − p)^β anneals the gradient of images that have reached
    their margin. Source: BRO, arXiv 2505.15174.
    """

    def __init__(self, classes: int, offset: float, temperature: float = 0.75, beta: float = 5.0) -> None:
        super().__init__()
        self.classes, self.offset, self.temperature, self.beta = classes, offset, temperature, beta

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        lowered = _lowered(logits, labels, self.classes, self.offset)
        surprise = functional.cross_entropy(lowered / self.temperature, labels, reduction="none")
        return self.temperature * (-(-surprise).expm1()).pow(self.beta).mul(surprise).mean()
