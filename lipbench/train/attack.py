"""An attack on images by projected gradient descent in the Euclidean norm.

Sources: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv 1706.06083; the margin
as loss: Carlini & Wagner, arXiv 1608.04644.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.train.data import DataSet, Images, batches

REACH = 2.5
"""sum of the lengths of all steps ÷ radius"""
WITHIN = 1 - 1e-6
"""share of the radius that perturbations may use, so that no rounding takes them out of the ball"""


@dataclass(frozen=True)
class PGD:
    """Steps of equal length against the gradient of the margin, from random points of the ball."""

    steps: int = 50
    restarts: int = 1

    def __str__(self) -> str:
        starts = "1 random start" if self.restarts == 1 else f"{self.restarts} random starts"
        return f"PGD, L2, {self.steps} steps, {starts}"


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other logit: (b, classes), (b,) → (b,). An image is correct if this is above 0."""
    label = labels[:, None]
    others = logits.scatter(1, label, -torch.inf).amax(1)
    return logits.gather(1, label)[:, 0] - others


def withstands(
    module: nn.Module, data: DataSet, images: Images, radius: float, attack: PGD, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """Whether each image is classified correctly, and stays so in all that the attack tries: bool (n,).

    The perturbed images lie in the ball of `radius` around the image, in the data set's own pixels in [0, 1], which they do not
    leave. The module is attacked in evaluation mode, with its present weights; it must be there.
    """
    generator = torch.Generator().manual_seed(seed)
    with _without_gradients(module):
        found = [_batch_withstands(module, data, batch, radius, attack, generator) for batch in batches(images, batch_size)]
    return torch.cat(found)


def _batch_withstands(
    module: nn.Module, data: DataSet, images: Images, radius: float, attack: PGD, generator: torch.Generator
) -> Tensor:
    clean = images.pixels.float() / 255

    def margin(pixels: Tensor, chosen: Tensor) -> Tensor:
        return margins(module(data.prepared(pixels)), images.labels[chosen])

    everything = torch.arange(len(clean), device=clean.device)
    with torch.no_grad():
        left = everything[margin(clean, everything) > 0]
    for _ in range(attack.restarts):
        start = _random_in_ball(clean.shape, radius, generator).to(clean.device)
        pixels = _projected(clean + start, clean, radius)
        for step in range(attack.steps + 1):
            if not len(left):
                break
            left, moved = _advanced(margin, pixels[left], clean[left], left, radius, REACH * radius / attack.steps)
            if step < attack.steps:
                pixels[left] = moved
    result = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    result[left] = True
    return result


def _advanced(
    margin: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, clean: Tensor, left: Tensor, radius: float, length: float
) -> tuple[Tensor, Tensor]:
    """The images of `left` that are still classified correctly, and their pixels after one more step."""
    with torch.enable_grad():
        x = pixels.detach().requires_grad_()
        found = margin(x, left)
        (gradient,) = torch.autograd.grad(found.sum(), x)
    correct = found.detach() > 0
    gradient = gradient[correct]
    norms = _norms(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
    moved = _projected(pixels[correct] - length * gradient / norms, clean[correct], radius)
    return left[correct], moved


def _projected(pixels: Tensor, clean: Tensor, radius: float) -> Tensor:
    """The pixels moved into the ball around `clean`, and then into [0, 1], which brings none farther from `clean`."""
    change = pixels - clean
    factor = (WITHIN * radius / _norms(change).clamp_min(torch.finfo(change.dtype).tiny)).clamp_max(1)
    return (clean + factor * change).clamp(0, 1)


def _norms(x: Tensor) -> Tensor:
    """Euclidean norm of each image, (b, 1, 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norms


def _random_in_ball(shape: torch.Size, radius: float, generator: torch.Generator) -> Tensor:
    """Perturbations (b, c, s, s) of random directions; their lengths are uniform up to the radius."""
    direction = torch.randn(shape, generator=generator)
    lengths = radius * torch.rand(shape[0], 1, 1, 1, generator=generator)
    return lengths * direction / _norms(direction)


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Within the block, no parameter needs a gradient: layers then use their cached effective parameters."""
    needed = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
