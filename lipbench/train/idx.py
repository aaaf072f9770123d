"""Fashion-MNIST from its IDX files: a magic number, sizes as big-endian integers of 4 bytes, then the values; gzip.

Source of the format: LeCun, Cortes & Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

from lipbench import errors
from lipbench.train.raw import Raw, content, tensor_of

MARKER = "train-images-idx3-ubyte.gz"
MOST_IMAGES = {"train": 60_000, "t10k": 10_000}
SIDE, CLASSES = 28, 10
LARGEST_FILE = 2**26
"""bytes of a compressed file; the published ones are at most 26 MB"""
UNSIGNED_BYTES = 0x0800
"""magic number of arrays of bytes; its last byte is the number of dimensions"""


def read(folder: Path) -> tuple[Raw, Raw]:
    """Training and test images, pixels (n, 1, 28, 28). Raises `LipbenchError` for a file that holds anything else."""
    return _part(folder, "train"), _part(folder, "t10k")


def _part(folder: Path, name: str) -> Raw:
    images, labels = (folder / f"{name}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    shape, pixels = _array(images, (MOST_IMAGES[name], SIDE, SIDE))
    found, classes = _array(labels, (MOST_IMAGES[name],))
    if found[0] != shape[0]:
        raise errors.unreadable_data(labels, f"{found[0]} labels for {shape[0]} images")
    if max(classes) >= CLASSES:
        raise errors.unreadable_data(labels, f"a label above {CLASSES - 1}")
    return tensor_of(pixels).view(-1, 1, SIDE, SIDE), tensor_of(classes).long()


def _array(path: Path, largest: tuple[int, ...]) -> tuple[tuple[int, ...], bytes]:
    """Shape and values of an array; `largest` has the most entries of the first dimension, and the exact sizes of the others.

    No more is unpacked than the header says, and no header may say more than `largest`.
    """
    packed = gzip.GzipFile(fileobj=io.BytesIO(content(path, LARGEST_FILE)))
    header = struct.Struct(f">{1 + len(largest)}I")
    try:
        start = packed.read(header.size)
        if len(start) < header.size:
            raise errors.unreadable_data(path, "it ends within its header")
        magic, *shape = header.unpack(start)
        if magic != UNSIGNED_BYTES + len(largest) or not 1 <= shape[0] <= largest[0] or tuple(shape[1:]) != largest[1:]:
            wanted = " × ".join(map(str, largest))
            raise errors.unreadable_data(path, f"its header is not that of an array of at most {wanted} bytes")
        values = packed.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise errors.unreadable_data(path, str(error)) from error
    if len(values) != math.prod(shape):
        kind = "fewer" if len(values) < math.prod(shape) else "more"
        raise errors.unreadable_data(path, f"{kind} values than its header says")
    return tuple(shape), values
