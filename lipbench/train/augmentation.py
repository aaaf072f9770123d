"""Augmented training batches: random crops and flips as operations on the whole batch, on the device of the images.

The random numbers come from one generator alone, so a training continues exactly from the generator's state.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lipbench import errors
from lipbench.train.data import FLIPPED, PADDING, RAND_AUGMENTED, DataSet, Images

OPERATIONS, MAGNITUDE = 2, 9
"""of RandAugment (Cubuk et al., arXiv 1909.13719), as in arXiv 2311.16833"""


def augmented(data: DataSet, images: Images, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Network inputs, float32 (b, 3, s, s), and labels (b,) of the images at `indices`, augmented as their data set is.

    A crop's border is 0, as a prepared pixel of the mean colour is, or a black one of grey images. `generator` is on the CPU or
    on the images' device. Raises `LipbenchError` where RandAugment is needed and torchvision is not installed.
    """
    chosen = images.chosen(indices.to(images.pixels.device))
    if data.name in RAND_AUGMENTED:
        return data.prepared(rand_augmented(chosen.pixels, generator)), chosen.labels
    x = data.prepared(chosen.pixels)
    return cropped(x, PADDING[data.name], data.name in FLIPPED, generator), chosen.labels


def cropped(x: Tensor, padding: int, flips: bool, generator: torch.Generator) -> Tensor:
    """Images (b, c, s, s), padded with zeros, cropped at random places and, with `flips`, mirrored with probability 1/2."""
    count, size = len(x), x.shape[-1]
    rows, columns = (_drawn(2 * padding + 1, count, generator, x.device) for _ in range(2))
    along = torch.arange(size, device=x.device)
    row, column = rows[:, None] + along, columns[:, None] + along
    if flips:
        column = torch.where(_drawn(2, count, generator, x.device)[:, None] == 1, column.flip(1), column)
    padded = functional.pad(x, (padding,) * 4)
    image, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
    return padded[image[:, None, None, None], channel[:, None, None], row[:, None, :, None], column[:, None, None, :]]


def _drawn(below: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(below, (count,), generator=generator, device=generator.device).to(device)


def rand_augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 images (b, 3, s, s), each after two random operations of torchvision's RandAugment.

    torchvision draws from PyTorch's global generator, whose state is put back afterwards.
    """
    try:
        from torchvision.transforms import RandAugment
    except ImportError:
        raise errors.no_package("RandAugment, which Tiny ImageNet is trained with", "torchvision") from None
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    transform = RandAugment(OPERATIONS, MAGNITUDE)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(image) for image in pixels])
