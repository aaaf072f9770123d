"""Data sets as uint8 tensors on a device: their parts, and what is done to their pixels before a network receives them.

Nothing is downloaded. `digits` comes from scikit-learn, all others from a folder in their published layout.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from lipbench import errors
from lipbench.bounds import require_choice
from lipbench.train import cifar, idx, tiny_imagenet
from lipbench.train.task import CLASSES, DATASETS, IMAGE_SIZES, Part

if TYPE_CHECKING:
    from lipbench.train.raw import Raw

ENVIRONMENT = "LIPBENCH_DATA"
"""environment variable with the folder of the data sets"""
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
"""where Debian's package dataset-fashion-mnist puts the files"""
VALIDATION_SHARE = 0.1
"""share of the training images that are held out for validation"""
DIGITS_TEST_SHARE, DIGITS_TEST_SEED = 0.2, 0
"""`digits` has no published test images: this share of its images is drawn with this seed, whatever the other seeds are"""
MEANS = {
    "cifar10": (0.49139968, 0.48215841, 0.44653091),
    "cifar100": (0.5071, 0.4865, 0.4409),
    "tiny-imagenet": (0.485, 0.456, 0.406),
}
"""subtracted from each channel (arXiv 2311.16833); nothing is subtracted from grey images, so that their background stays 0"""
PADDING = {"digits": 0, "fashion-mnist": 2, "cifar10": 4, "cifar100": 4, "tiny-imagenet": 0}
"""pixels by which training images are padded before a random crop to their size; `digits` fill their 8 pixels"""
FLIPPED = ("fashion-mnist", "cifar10", "cifar100")
"""data sets whose training images are flipped horizontally with probability 1/2; digits change their class"""
RAND_AUGMENTED = ("tiny-imagenet",)
"""data sets whose training images pass RandAugment in place of crops and flips"""


@dataclass(frozen=True)
class Images:
    """Images and their classes, on one device."""

    pixels: Tensor
    """uint8 (n, channels, s, s), 0 to 255; one channel for grey images, three for colours"""
    labels: Tensor
    """int64 (n,)"""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Images:
        """The first `count` images."""
        return Images(self.pixels[:count], self.labels[:count])

    def chosen(self, indices: Tensor) -> Images:
        """The images at these indices."""
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: str | torch.device) -> Images:
        """The same images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """The parts of a data set, and the map from its pixels to the input of a network.

    Distances, radii and perturbations are those of the data set's own pixels in [0, 1]: of one channel for grey images. Three
    equal channels would multiply distances of grey images by √3; divided by √3, they keep them exactly.
    """

    name: str
    classes: int
    train: Images
    validation: Images
    """empty where all images are trained on"""
    test: Images
    mean: tuple[float, ...] = (0.0,)
    """subtracted from each channel of pixels in [0, 1]"""
    deviation: tuple[float, ...] = (1.0,)
    """divides each channel; no data set here uses it"""

    @property
    def constant(self) -> float:
        """Lipschitz constant of the map from pixels in [0, 1] to the input of a network.

        Subtracting a mean has the constant 1, dividing by deviations has 1 ÷ the smallest, and three channels, each a grey one
        times 1/√3, have √3 · 1/√3 = 1.
        """
        return 1 / min(self.deviation)

    def to(self, device: str | torch.device) -> DataSet:
        """The same data set on a device."""
        train, validation, test = (images.to(device) for images in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)

    def part(self, name: Part) -> Images:
        """The images of a part. Raises `LipbenchError` for an empty one."""
        found: Images = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        if not len(found):
            raise errors.empty_part(self.name, name)
        return found

    def prepared(self, pixels: Tensor) -> Tensor:
        """The input of a network, float32 (b, 3, s, s), from pixels (b, channels, s, s): uint8, or floats in [0, 1].

        Floats keep their dtype and are differentiated through.
        """
        x = pixels if pixels.is_floating_point() else pixels.float() / 255
        if x.shape[1] == 1:
            x = (x / math.sqrt(3)).expand(-1, 3, -1, -1)
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return (x - mean) / deviation


def load(
    name: str, folder: Path | None = None, *, split_seed: int = 0, all_images: bool = False, device: str | torch.device = "cpu"
) -> DataSet:
    """The data set of a name, whole, on a device.

    A tenth of the training images, drawn uniformly with `split_seed`, is held out for validation; none with `all_images`.
    The data are looked for in `folder`, else in the folder named by LIPBENCH_DATA, and there in the published folder or
    directly. Fashion-MNIST is at last looked for where Debian's package has it.

    Raises `LipbenchError` for an unknown name, for a folder without the data set, and for damaged files.
    """
    require_choice("dataset", name, DATASETS)
    train, test = _digits() if name == "digits" else _published(name, folder)
    for images in (train, test):
        _check(images, name)
    held_out, rest = _split(len(train), VALIDATION_SHARE, split_seed)
    whole = train.chosen(torch.cat((rest, held_out)).sort().values) if all_images else train.chosen(rest)
    validation = train.first(0) if all_images else train.chosen(held_out)
    return DataSet(name, CLASSES[name], whole, validation, test, MEANS.get(name, (0.0,))).to(device)


def batches(images: Images, size: int) -> Iterator[Images]:
    """The images in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(images), size):
        yield Images(images.pixels[start : start + size], images.labels[start : start + size])


def _split(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a share of `count` images, drawn uniformly with a seed, and the other indices; both in increasing order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    drawn = round(count * share)
    return order[:drawn].sort().values, order[drawn:].sort().values


def _digits() -> tuple[Images, Images]:
    """Training and test images of scikit-learn's digits: values v from 0 to 16 become round(v · 255 / 16)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise errors.no_train_extra("the data set digits", "scikit-learn") from None
    found = load_digits()
    pixels = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8)
    whole = Images(pixels[:, None], torch.from_numpy(found.target).long())
    test, train = _split(len(whole), DIGITS_TEST_SHARE, DIGITS_TEST_SEED)
    return whole.chosen(train), whole.chosen(test)


READERS: dict[str, tuple[Callable[[Path], tuple[Raw, Raw]], str, str]] = {
    "fashion-mnist": (idx.read, "fashion-mnist", idx.MARKER),
    "cifar10": (cifar.read_10, "cifar-10-batches-py", cifar.MARKER_10),
    "cifar100": (cifar.read_100, "cifar-100-python", cifar.MARKER_100),
    "tiny-imagenet": (tiny_imagenet.read, "tiny-imagenet-200", tiny_imagenet.MARKER),
}
"""Name → (reader of a folder, name of the published folder, a file in it by which it is recognised)"""


def _published(name: str, folder: Path | None) -> tuple[Images, Images]:
    reader, published, marker = READERS[name]
    named = folder or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    places = [] if named is None else [named / published, named]
    if name == "fashion-mnist" and folder is None:
        places.append(DEBIAN_FASHION)
    place = next((place for place in places if (place / marker).is_file()), None)
    if place is None:
        raise errors.no_data(name, named, published, marker)
    train, test = (Images(pixels, labels) for pixels, labels in reader(place))
    border = (IMAGE_SIZES[name] - train.pixels.shape[-1]) // 2
    if border:
        train, test = (replace(one, pixels=functional.pad(one.pixels, (border,) * 4)) for one in (train, test))
    return train, test


def _check(images: Images, name: str) -> None:
    """The readers have checked files against what they must hold; this holds for whatever they return."""
    size = IMAGE_SIZES[name]
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.shape[2:] == (size, size)
    assert len(images.pixels) == len(images)
