"""CIFAR-10 and CIFAR-100 from their Python pickles, which are read without running any code that they name.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009; the "python version" of the files.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import torch

from lipbench import errors
from lipbench.train.raw import Raw, content, tensor_of

MARKER_10, MARKER_100 = "data_batch_1", "train"
SHAPE = (3, 32, 32)
LARGEST_FILE = 2**28
"""bytes; the largest published file has 155 MB"""


def read_10(folder: Path) -> tuple[Raw, Raw]:
    """Training and test images of CIFAR-10, pixels (n, 3, 32, 32). Raises `LipbenchError` for a file with anything else."""
    parts = [_batch(folder / f"data_batch_{number}", b"labels", 10, 10_000) for number in range(1, 6)]
    return (torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])), _batch(
        folder / "test_batch", b"labels", 10, 10_000
    )


def read_100(folder: Path) -> tuple[Raw, Raw]:
    """The same of CIFAR-100, with its 100 fine classes."""
    train, test = ((folder / name, b"fine_labels", 100, most) for name, most in (("train", 50_000), ("test", 10_000)))
    return _batch(*train), _batch(*test)


def _batch(path: Path, key: bytes, classes: int, most: int) -> Raw:
    found = _unpickled(path)
    pixels, labels = (found.get(name) for name in (b"data", key)) if isinstance(found, dict) else (None, None)
    if not isinstance(pixels, _Array) or not isinstance(labels, list):
        raise errors.unreadable_data(path, f"no array 'data' with a list {key.decode()!r}")
    size = math.prod(SHAPE)
    if not 1 <= len(labels) <= most or pixels.shape != (len(labels), size) or len(pixels.values) != len(labels) * size:
        raise errors.unreadable_data(path, f"not from 1 to {most} images of {size} bytes with as many labels")
    if not all(type(one) is int and 0 <= one < classes for one in labels):
        raise errors.unreadable_data(path, f"a label that is not a whole number from 0 to {classes - 1}")
    return tensor_of(pixels.values).view(-1, *SHAPE), torch.tensor(labels)


def _unpickled(path: Path) -> Any:
    data = content(path, LARGEST_FILE)
    try:
        return _Reader(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise anything
        raise errors.unreadable_data(path, f"{type(error).__name__}: {error}") from error


class _Array:
    """Stands for an array of NumPy in a pickle, and for the function that makes an empty one; holds what is written of it."""

    shape: tuple[int, ...] = ()
    values: bytes = b""

    def __init__(self, *_: Any) -> None:
        """Shape and kind of the empty array, which count for nothing."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, values = state
        if not (isinstance(dtype, _Dtype) and dtype.name == "u1" and not by_columns and isinstance(values, bytes)):
            raise ValueError("an array of something other than rows of bytes")
        self.shape, self.values = shape, values


class _Dtype:
    """Stands for a dtype of NumPy in a pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, which bytes do not have."""


class _Reader(pickle._Unpickler):
    """Reads the pickle of a dict of lists, texts and arrays of bytes. The names of NumPy in it mean the stand-ins above.

    It is the reader in Python: the one in C allocates memory for sizes that a damaged file only claims.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name. Raises `UnpicklingError` for any other one."""
        stand_ins = {
            ("numpy.core.multiarray", "_reconstruct"): _Array, ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype,
        }  # fmt: skip
        if (module, name) not in stand_ins:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no such data set has")
        return stand_ins[module, name]
