"""Tiny ImageNet from its folder `tiny-imagenet-200`: JPEG files by class, decoded by Pillow.

Its own test images have no published labels, so the published validation images are the test images here, as in the paper.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lipbench import errors
from lipbench.train.raw import Raw, content

MARKER = "wnids.txt"
SIDE, CLASSES = 64, 200
LARGEST_FILE, LARGEST_LIST = 2**20, 2**23
"""bytes of an image, and of a list of names"""
Labelled = list[tuple[Path, int]]


def read(folder: Path) -> tuple[Raw, Raw]:
    """Training and test images, pixels (n, 3, 64, 64); classes are numbered in the order of their names.

    Raises `LipbenchError` for a missing or damaged file, and where Pillow is not installed.
    """
    names = sorted(_lines(folder / MARKER))
    if not 1 <= len(set(names)) == len(names) <= CLASSES or not all(map(_is_plain, names)):
        raise errors.unreadable_data(folder / MARKER, f"not the distinct names of at most {CLASSES} classes")
    numbers = {name: number for number, name in enumerate(names)}
    train = [(path, numbers[name]) for name in names for path in sorted((folder / "train" / name / "images").glob("*.JPEG"))]
    if not train:
        raise errors.unreadable_data(folder / "train", "no JPEG files")
    return _decoded(train), _decoded(_test_files(folder / "val", numbers))


def _test_files(folder: Path, numbers: dict[str, int]) -> Labelled:
    path = folder / "val_annotations.txt"
    rows = [line.split("\t")[:2] for line in _lines(path)]
    if not rows or not all(len(row) == 2 and _is_plain(row[0]) and row[1] in numbers for row in rows):
        raise errors.unreadable_data(path, "not lines of an image's name and a class of wnids.txt")
    return [(folder / "images" / name, numbers[label]) for name, label in rows]


def _is_plain(name: str) -> bool:
    """Whether a name leads to no other folder."""
    return bool(name) and Path(name).name == name


def _lines(path: Path) -> list[str]:
    try:
        return content(path, LARGEST_LIST).decode().splitlines()
    except UnicodeDecodeError as error:
        raise errors.unreadable_data(path, "not text") from error


def _decoded(files: Sequence[tuple[Path, int]]) -> Raw:
    pixels = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8)
    for place, (path, _) in zip(pixels, files):
        place.copy_(_image(path))
    return pixels, torch.tensor([label for _, label in files])


def _image(path: Path) -> Tensor:
    try:
        from PIL import Image
    except ImportError:
        raise errors.no_package("Tiny ImageNet's JPEG files", "pillow") from None
    data = content(path, LARGEST_FILE)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"an image of {image.size[0]} × {image.size[1]} pixels")
            decoded = bytearray(image.convert("RGB").tobytes())
    except Exception as error:  # a decoder may raise anything
        raise errors.unreadable_data(path, str(error)) from error
    return torch.frombuffer(decoded, dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1)
