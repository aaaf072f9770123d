"""The random generators of a process, seeded, saved and restored, so that a resumed training draws the same numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed the generators of PyTorch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # the old generator, which layers of other packages may draw from
    random.seed(seed)


def states(device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of these generators: tensors, and JSON-ready values."""
    tensors = {"torch": torch.get_rng_state()}
    if device == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, position, has_normal, normal = np.random.get_state()
    return tensors, {"numpy": [str(kind), list(map(int, keys)), position, has_normal, normal], "python": random.getstate()}


def restore(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Restore what `states` gave. Raises `KeyError`, `TypeError`, `ValueError` or `RuntimeError` for anything else."""
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
    kind, keys, position, has_normal, normal = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_normal, normal))
    version, numbers, last = values["python"]
    random.setstate((version, tuple(numbers), last))
