"""Data sets: what they hold, their parts, their preprocessing and augmentation, and files that are not theirs."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_data
from torch import Tensor

from lipbench.errors import LipbenchError
from lipbench.train import augmentation, data, idx
from lipbench.train.data import DataSet, Images
from lipbench.train.task import CLASSES, IMAGE_SIZES

WRITERS = {
    "fashion-mnist": training_data.write_fashion,
    "cifar10": training_data.write_cifar10,
    "cifar100": training_data.write_cifar100,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(name: str, pixels: Tensor, **settings: Any) -> DataSet:
    images = Images(pixels, torch.arange(len(pixels)))
    return DataSet(name, 10, images, images.first(0), images, **settings)


# The data sets


def test_digits_are_those_of_the_package() -> None:
    from sklearn.datasets import load_digits

    found = data.load("digits")
    assert [len(found.train), len(found.validation), len(found.test)] == [1294, 144, 359]
    assert (found.classes, found.constant) == (10, 1.0)
    every = torch.cat([found.train.pixels, found.validation.pixels, found.test.pixels])[:, 0]
    original = torch.from_numpy(load_digits().images)
    assert every.sum(dtype=torch.int64) == (original * 255 / 16).round().sum()
    assert sorted(every.unique().tolist()) == [round(value * 255 / 16) for value in range(17)]


@pytest.mark.parametrize("name", WRITERS)
def test_published_layouts(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    found = data.load(name, tmp_path)
    size, trained = IMAGE_SIZES[name], 100 if name == "cifar10" else 20
    assert len(found.train) + len(found.validation) == trained
    assert len(found.validation) == trained // 10
    assert len(found.test) == 20
    assert found.classes == CLASSES[name]
    assert found.test.labels.tolist() == [index % found.classes for index in range(20)]
    assert found.test.pixels.shape[2:] == (size, size)
    assert found.prepared(found.test.pixels).shape == (20, 3, size, size)


def test_pixels_of_cifar_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    training_data.write_cifar10(tmp_path)
    pixels = training_data.random_pixels(20, 3072, seed=5).reshape(20, 3, 32, 32)
    assert torch.equal(data.load("cifar10", tmp_path).test.pixels, torch.from_numpy(pixels))


def test_pixels_of_fashion_are_padded_with_black(tmp_path: Path) -> None:
    training_data.write_fashion(tmp_path)
    pixels = data.load("fashion-mnist", tmp_path).test.pixels
    assert torch.equal(pixels[:, 0, 2:-2, 2:-2], torch.from_numpy(training_data.random_pixels(20, 28, 28, seed=1)))
    assert pixels[:, :, :2].sum() == pixels[:, :, -2:].sum() == pixels[..., :2].sum() == pixels[..., -2:].sum() == 0


def test_tiny_imagenet(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    training_data.write_tiny_imagenet(tmp_path)
    found = data.load("tiny-imagenet", tmp_path, all_images=True)
    assert found.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4  # by the order of their names
    assert found.test.labels.tolist() == [2, 1, 0]
    assert found.test.pixels.shape == (3, 3, 64, 64)
    assert abs(found.test.pixels[2].float().mean() - 80) < 2


@pytest.mark.skipif(not data.DEBIAN_FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_package_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ENVIRONMENT, raising=False)
    found = data.load("fashion-mnist")
    assert [len(found.train), len(found.validation), len(found.test)] == [54000, 6000, 10000]
    assert torch.bincount(found.test.labels).tolist() == [1000] * 10


def test_a_folder_is_named_by_the_environment_or_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_data.write_cifar100(tmp_path)
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    assert len(data.load("cifar100").test) == 20
    monkeypatch.delenv(data.ENVIRONMENT)
    assert len(data.load("cifar100", tmp_path / "cifar-100-python").test) == 20
    with pytest.raises(LipbenchError, match="not downloaded: got no folder; put the published folder cifar-100-python"):
        data.load("cifar100")


# The parts


def test_parts_are_drawn_by_their_seed_and_have_no_image_in_common(tmp_path: Path) -> None:
    training_data.write_cifar10(tmp_path)
    first, again, other = (data.load("cifar10", tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.pixels, again.validation.pixels)
    assert not torch.equal(first.validation.pixels, other.validation.pixels)
    assert torch.equal(first.test.pixels, other.test.pixels)
    rows = [tuple(one.flatten().tolist()) for part in (first.train, first.validation) for one in part.pixels]
    assert len(set(rows)) == 100


def test_all_images_leaves_none_for_validation(tmp_path: Path) -> None:
    training_data.write_cifar10(tmp_path)
    found = data.load("cifar10", tmp_path, all_images=True)
    assert (len(found.train), len(found.validation)) == (100, 0)
    with pytest.raises(LipbenchError, match="cifar10 has no images in this part: got validation"):
        found.part("validation")


def test_batches_keep_the_order() -> None:
    images = Images(torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1), torch.arange(5))
    assert [one.labels.tolist() for one in data.batches(images, 2)] == [[0, 1], [2, 3], [4]]


# Preprocessing


def largest_gain(found: DataSet, shape: tuple[int, ...]) -> float:
    """The Lipschitz constant of preprocessing, from its Jacobian."""
    pixels = torch.rand(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(found.prepared, pixels)
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, math.prod(shape)), 2))


@pytest.mark.parametrize("settings", [{}, {"mean": (0.3,)}, {"deviation": (0.25,)}])
def test_distances_of_grey_images_are_kept(settings: dict[str, Any]) -> None:
    found = tiny("digits", torch.zeros(1, 1, 3, 3, dtype=torch.uint8), **settings)
    assert largest_gain(found, (1, 3, 3)) == pytest.approx(found.constant, rel=1e-12)
    assert found.constant == (4 if "deviation" in settings else 1)


def test_constant_of_colours() -> None:
    found = tiny("cifar10", torch.zeros(1, 3, 2, 2, dtype=torch.uint8), mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.2, 0.4))
    assert largest_gain(found, (3, 2, 2)) == pytest.approx(found.constant, rel=1e-12)
    assert found.constant == 5
    assert found.prepared(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0].tolist() == pytest.approx(
        [1.8, 4, 1.75]
    )


# Augmentation


def test_crops_and_flips_are_those_of_a_loop() -> None:
    x = torch.rand(40, 3, 5, 5)
    found = augmentation.cropped(x, 2, True, generator())
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    seen = set()
    for image, result in zip(padded, found):
        fitting = [
            (row, column, flipped)
            for row in range(5) for column in range(5) for flipped in (False, True)
            if torch.equal(image[:, row : row + 5, column : column + 5].flip(2) if flipped
                           else image[:, row : row + 5, column : column + 5], result)
        ]  # fmt: skip
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert {one[2] for one in seen} == {False, True}
    assert len({one[0] for one in seen}) == len({one[1] for one in seen}) == 5


def test_augmentation_continues_from_the_state_of_its_generator() -> None:
    found, state = data.load("digits"), generator(3)
    augmentation.augmented(found, found.train, torch.arange(10), state)
    saved = state.get_state()
    first = augmentation.augmented(found, found.train, torch.arange(10), state)
    again = augmentation.augmented(found, found.train, torch.arange(10), generator().set_state(saved))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], found.train.labels[:10])
    assert first[0].shape == (10, 3, 8, 8)


def test_digits_are_never_flipped() -> None:
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    pixels[0, 0, 3, 3:5] = torch.tensor([10, 20], dtype=torch.uint8)
    found = tiny("digits", pixels)
    x, _ = augmentation.augmented(found, found.train, torch.zeros(50, dtype=torch.long), generator())
    rows = [row[row > 0].mul(255 * math.sqrt(3)).round().tolist() for row in x[:, 0].flatten(1)]
    assert rows == [[10, 20]] * 50


def test_rand_augment_leaves_the_global_generator() -> None:
    pytest.importorskip("torchvision")
    pixels = torch.from_numpy(training_data.random_pixels(6, 3, 64, 64))
    found = tiny("tiny-imagenet", pixels)
    before = torch.get_rng_state()
    first, again, other = (
        augmentation.augmented(found, found.train, torch.arange(6), generator(seed))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, found.prepared(pixels))


# Files that are not those of the data set


def damaged_fashion(tmp_path: Path, change: Callable[[bytes], bytes], name: str = idx.MARKER) -> Path:
    training_data.write_fashion(tmp_path)
    path = tmp_path / "fashion-mnist" / name
    path.write_bytes(change(path.read_bytes()))
    return path


def repacked(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda packed: gzip.compress(change(gzip.decompress(packed)))


IDX_DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no gzip": (lambda packed: b"hello", "Not a gzipped file"),
    "cut": (lambda packed: packed[: len(packed) // 2], "Compressed file ended"),
    "changed": (lambda packed: packed[:60] + bytes(40) + packed[100:], "invalid|CRC|Error|distance"),
    "cut header": (repacked(lambda plain: plain[:9]), "ends within its header"),
    "other magic": (repacked(lambda plain: b"\0\0\x0d\3" + plain[4:]), "its header is not that of an array"),
    "terabytes": (repacked(lambda plain: plain[:4] + struct.pack(">3I", *[2**32 - 1] * 3)), "its header is not that"),
    "one missing": (repacked(lambda plain: plain[:-1]), "fewer values than its header says"),
    "a bomb": (repacked(lambda plain: plain + bytes(10**8)), "more values than its header says"),
}


@pytest.mark.parametrize("damage", IDX_DAMAGES)
def test_damaged_idx_files(damage: str, tmp_path: Path) -> None:
    change, reason = IDX_DAMAGES[damage]
    path = damaged_fashion(tmp_path, change)
    with pytest.raises(LipbenchError, match=reason) as caught:
        data.load("fashion-mnist", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_of_idx_files_are_checked(tmp_path: Path) -> None:
    damaged_fashion(tmp_path, repacked(lambda plain: plain[:-1] + b"\x0a"), "train-labels-idx1-ubyte.gz")
    with pytest.raises(LipbenchError, match="a label above 9"):
        data.load("fashion-mnist", tmp_path)


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    training_data.write_cifar10(tmp_path)
    planted = tmp_path / "planted"
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({b"data": Planted(planted), b"labels": [1]}))
    with pytest.raises(LipbenchError, match=r"data_batch_3 .*it names posix.system, which no such data set has"):
        data.load("cifar10", tmp_path)
    assert not planted.exists()


CIFAR_DAMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "EOFError"),
    "text": (b"hello", "UnpicklingError|KeyError|EOFError|ValueError|IndexError"),
    "a list": (pickle.dumps([1]), "no array 'data'"),
    "no labels": (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}), "no array 'data' with a list 'labels'"),
    "other sizes": (pickle.dumps({b"data": np.zeros((2, 7), np.uint8), b"labels": [1, 2]}), "images of 3072 bytes"),
    "floats": (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}), "other than rows of bytes"),
    "a high label": (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10**30]}), "from 0 to 9"),
    "true": (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, True]}), "from 0 to 9"),
    "a huge claim": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".", "UnpicklingError|EOFError|Error"),
    "a huge memo": (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "no array 'data'"),
}


@pytest.mark.parametrize("damage", CIFAR_DAMAGES)
def test_damaged_pickles(damage: str, tmp_path: Path) -> None:
    content, reason = CIFAR_DAMAGES[damage]
    training_data.write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(LipbenchError, match=reason) as caught:
        data.load("cifar10", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("wnids.txt", b"../..\n", "not the distinct names"),
        ("wnids.txt", b"\xff\xfe", "not text"),
        ("val/val_annotations.txt", b"../../secret.JPEG\tn00000009\n", "not lines of an image's name"),
        ("val/images/val_0.JPEG", b"hello", "cannot identify"),
    ],
)
def test_damaged_tiny_imagenet(file: str, content: bytes, reason: str, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    training_data.write_tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200" / file).write_bytes(content)
    with pytest.raises(LipbenchError, match=reason):
        data.load("tiny-imagenet", tmp_path)


def test_images_of_another_size_are_not_decoded(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    training_data.write_tiny_imagenet(tmp_path)
    image.new("RGB", (5000, 5000)).save(tmp_path / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG")
    with pytest.raises(LipbenchError, match="an image of 5000 × 5000 pixels"):
        data.load("tiny-imagenet", tmp_path)
