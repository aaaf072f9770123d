"""The order in which training images are taken."""

from __future__ import annotations

import torch
from torch import Tensor


class Order:
    """Places of images in random order without end: each image comes once per epoch, and batches may cross its end.

    So every batch has the same size, which keeps the time of a step constant and needs one compiled graph alone.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images, self.batch_size = images, min(batch_size, images)
        self.generator = torch.Generator().manual_seed(seed)
        self.permutation = torch.empty(0, dtype=torch.int64)
        self.position = 0
        """places of the permutation that are used"""

    def batch(self) -> Tensor:
        """The next places, (batch_size,), int64."""
        parts, missing = [], self.batch_size
        while missing:
            if self.position == len(self.permutation):
                self.permutation, self.position = torch.randperm(self.images, generator=self.generator), 0
            part = self.permutation[self.position : self.position + missing]
            self.position += len(part)
            missing -= len(part)
            parts.append(part)
        return torch.cat(parts)
