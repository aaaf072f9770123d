"""Small data sets in their published layouts, written for tests."""

from __future__ import annotations

import gzip
import pickle
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did, in which the published files were pickled: texts are bytes, and NumPy has its old names."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_text(self, value: Any) -> None:
        encoded = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(encoded)) + encoded)
        self.memoize(value)

    def save_global(self, value: Any, name: str | None = None) -> None:
        if getattr(value, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(value)
        else:
            super().save_global(value, name)

    dispatch[bytes] = dispatch[str] = save_text
    dispatch[type(len)] = dispatch[type(lambda: None)] = dispatch[type] = save_global


def write_pickle(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = BytesIO()
    Python2Pickler(stream, 2).dump(value)
    path.write_bytes(stream.getvalue())


def random_pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_cifar10(folder: Path, count: int = 20) -> None:
    for number, name in enumerate([*(f"data_batch_{one}" for one in range(1, 6)), "test_batch"]):
        labels = [index % 10 for index in range(count)]
        pixels = random_pixels(count, 3072, seed=number)
        write_pickle(folder / "cifar-10-batches-py" / name, {"data": pixels, "labels": labels, "batch_label": name})


def write_cifar100(folder: Path, count: int = 20) -> None:
    for number, name in enumerate(("train", "test")):
        labels = [index % 100 for index in range(count)]
        values = {"data": random_pixels(count, 3072, seed=number), "fine_labels": labels, "coarse_labels": labels}
        write_pickle(folder / "cifar-100-python" / name, values)


def idx_bytes(values: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def write_fashion(folder: Path, count: int = 20) -> None:
    (folder / "fashion-mnist").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("train", "t10k")):
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", random_pixels(count, 28, 28, seed=number)), ("labels-idx1", labels)):
            (folder / "fashion-mnist" / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(values)))


def write_tiny_imagenet(folder: Path, classes: int = 3, count: int = 4) -> None:
    from PIL import Image

    root = folder / "tiny-imagenet-200"
    names = [f"n{9 - number:08}" for number in range(classes)]  # not in the order of their numbers
    rows = []
    for label, name in enumerate(names):
        for number in range(count):
            path = root / "train" / name / "images" / f"{name}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((64, 64, 3), 40 * label + number, np.uint8)).save(path)
        (root / "val" / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64), 40 * label, np.uint8)).save(root / "val" / "images" / f"val_{label}.JPEG")  # grey
        rows.append(f"val_{label}.JPEG\t{name}\t0\t0\t63\t63\n")
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
