"""What the readers of data sets return: pixels as stored, and labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lipbench import errors
from lipbench.store.files import read_regular

Raw = tuple[Tensor, Tensor]
"""pixels, uint8 (n, channels, s, s), and labels, int64 (n,)"""


def content(path: Path, most_bytes: int) -> bytes:
    """The contents of a regular file. Raises `LipbenchError` where it cannot be read or is larger than `most_bytes`."""
    try:
        return read_regular(path, most_bytes)
    except OSError as error:
        raise errors.unreadable_data(path, error.strerror or str(error)) from error


def tensor_of(data: bytes) -> Tensor:
    """Bytes as a uint8 tensor of its own memory."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
