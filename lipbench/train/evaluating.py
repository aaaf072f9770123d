"""What a trained network is worth: certificate, accuracy, certified robust accuracy, throughput, and accuracy under attack."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lipbench import certify, errors
from lipbench.layers.base import TwoHalves
from lipbench.meters import lipschitz
from lipbench.meters.machine import exact_products
from lipbench.quantities import Certificate
from lipbench.train.attack import PGD, margins, withstands
from lipbench.train.data import DataSet, Images, batches
from lipbench.train.task import ATTACKED_IMAGES, RADII, Attacked, Evaluation, Part, radius_key
from lipbench.training import refresh

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BATCH = 256
TIMED_S, TIMED_CALLS = 0.3, 3
"""throughput: a batch is timed for so long, and at least so often"""


def evaluate(
    module: nn.Module,
    data: DataSet,
    part: Part = "test",
    *,
    attack: PGD | bool = False,
    images: int | None = None,
    seed: int = 0,
    claimed: float = 1.0,
    each_layer: bool = True,
) -> Evaluation:
    """The worth of a network (b, 3, s, s) → (b, classes) on one part of a data set, in evaluation mode.

    First its certificate on the same weights: without a proved constant, `certified` and `margins` are empty, and `reason` says
    why. The network may claim the constant `claimed`, with `each_layer` of each of its layers. All is computed in ieee
    products, since radii do not hold in tf32.

    Iterated state of layers is brought to convergence first (`refresh()`), as it is when weights are loaded. With `attack`, the
    first `images` of the part (128 by default) are attacked at each of `RADII`, with random starts by `seed`. The module keeps
    its mode.

    Raises `LipbenchError` for an empty part, and where the attack changes the class of an image within its certified radius:
    then the certificate or the network's constant is wrong, and no result may be reported.
    """
    chosen = data.part(part)
    with _evaluated(module):
        refresh(module)
        like = data.prepared(chosen.first(1).pixels)
        found = certify.certify(module, like, training=False, each_layer=each_layer, claimed=claimed)
        verdict, reason = certify.verdict(found)
        constant = proved_constant(found, like.shape[-1])
        if constant is not None:
            constant *= data.constant
        margin = _margins(module, data, chosen)
        radii = certified_radii(margin, constant)
        speed = _images_per_second(module, data.prepared(chosen.first(BATCH).pixels))
        pgd = PGD() if attack is True else attack or None
        first = chosen.first(images or ATTACKED_IMAGES)
        attacked = _attacked(module, data, first, margin, radii, pgd, seed) if pgd else ()
    return Evaluation(
        part=part,
        images=len(chosen),
        accuracy=_share(margin > 0),
        certified={} if constant is None else {radius_key(radius): _share(radii > radius) for radius in RADII},
        constant=constant,
        verdict=verdict,
        reason=_reason(found, constant, reason),
        margins={} if constant is None else _quantiles(radii),
        images_per_second=speed,
        attacked=attacked,
    )


def accuracy_and_certified(
    module: nn.Module, data: DataSet, part: Part, radius: float, images: int | None = None
) -> tuple[float, float]:
    """Accuracy and certified robust accuracy at a radius, if the network has the constant that its layers claim, 1.

    For learning curves: no certificate is computed, and with `images` only so many are used, the first. The module is left in
    the mode it was in.
    """
    with _evaluated(module):
        margin = _margins(module, data, data.part(part).first(images or len(data.part(part))))
    return _share(margin > 0), _share(certified_radii(margin, data.constant) > radius)


def certified_radii(margin: Tensor, constant: float | None) -> Tensor:
    """Radii of balls, in pixels, in which the class cannot change: `m / (√2 max(1, L))`, and 0 where m ≤ 0 or L is not known.

    The difference of two logits of an L-Lipschitz network is √2 L-Lipschitz (Tsuzuku et al., arXiv 1802.04034).
    """
    if constant is None:
        return torch.zeros_like(margin)
    return margin.nan_to_num(0.0).clamp_min(0) / (math.sqrt(2) * max(1.0, constant))


def proved_constant(certificate: Certificate, image_size: int) -> float | None:
    """An upper bound of a network's Lipschitz constant on images of this size; None where nothing is proved.

    An exact constant counts only without an upper bound: beside one, it is that of the worst layer. A constant
    of 1 is not believed where the variance over a batch grows.
    """
    if certificate.unknown:
        return None
    for kind in ("upper bound", "exact"):
        of_kind = [one for one in certificate.evaluation if one.kind == kind and one.image_size == image_size]
        if of_kind:
            found = min(one.largest + one.uncertainty for one in of_kind)
            contradicted = certificate.growing and found <= 1 + lipschitz.TOLERANCE
            return found if math.isfinite(found) and not contradicted else None
    return None


def _reason(certificate: Certificate, constant: float | None, reason: str) -> str:
    if constant is None:
        remarks = [remark for remark in certificate.remarks if remark not in reason]
        return "; ".join(("no Lipschitz constant is proved", *filter(None, (reason, *remarks))))
    if reason and constant > 1:
        return f"{reason}; margins are divided by the proved constant {constant:.6g}"
    return reason


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Within the block, the module is in evaluation mode, no gradient is kept, and all products are ieee."""
    training = {part: part.training for part in module.modules()}
    precisions = {part: part.precision for part in training if isinstance(part, TwoHalves)}
    module.eval()
    try:
        for part in precisions:
            part.precision = "ieee"
        with torch.no_grad(), exact_products():
            yield
    finally:
        for part, precision in precisions.items():
            part.precision = precision
        for any_part, mode in training.items():
            any_part.training = mode


def _margins(module: nn.Module, data: DataSet, images: Images) -> Tensor:
    """Margins of all images, float64 (n,)."""
    return torch.cat([margins(module(data.prepared(batch.pixels)).double(), batch.labels) for batch in batches(images, BATCH)])


def _share(chosen: Tensor) -> float:
    return float(chosen.double().mean())


def _quantiles(radii: Tensor) -> dict[str, float]:
    found = torch.quantile(radii, radii.new_tensor(QUANTILES)).tolist()
    return {f"{quantile:g}": value for quantile, value in zip(QUANTILES, found)}


def _images_per_second(module: nn.Module, x: Tensor) -> float:
    """Inference on one batch with full caches: images ÷ median seconds."""
    samples: list[float] = []
    module(x)
    while len(samples) < TIMED_CALLS or sum(samples) < TIMED_S:
        _finish(x)
        start = time.perf_counter()
        module(x)
        _finish(x)
        samples.append(time.perf_counter() - start)
    return len(x) / statistics.median(samples)


def _finish(x: Tensor) -> None:
    """Wait for the device of a tensor."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _attacked(
    module: nn.Module, data: DataSet, images: Images, margin: Tensor, radii: Tensor, pgd: PGD, seed: int
) -> tuple[Attacked, ...]:
    """Accuracy under attack at each of `RADII`, in increasing order: an image that fell at a smaller radius has fallen."""
    margin, radii = margin[: len(images)], radii[: len(images)]
    standing = margin > 0
    found = []
    for radius in sorted(RADII):
        left = standing.nonzero()[:, 0]
        standing = torch.zeros_like(standing)
        if len(left):
            standing[left] = withstands(module, data, images.chosen(left), radius, pgd, seed)
        fallen = int(((radii > radius) & ~standing).sum())
        if fallen:
            raise errors.attack_beats_certificate(fallen, radius)
        found.append(
            Attacked(
                attack=str(pgd),
                radius=radius,
                accuracy=_share(standing),
                images=len(images),
                certified=_share(radii > radius),
                clean=_share(margin > 0),
            )
        )
    return tuple(found)
