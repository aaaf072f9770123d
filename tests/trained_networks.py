"""Small networks for tests of training, given as `trained_networks:name`."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

from lipbench import networks, registry

CHANNELS = 12


def small(image_size: int, classes: int, method: str = "aol", implementation: str = "paper") -> nn.Module:
    """Two layers of a method and its head on images of a quarter of the size."""
    entry = registry.find(method)
    layer = entry.implementations[implementation].layer
    side = image_size // 2
    features = CHANNELS * 4
    head = entry.head.layer(features, features) if entry.head else networks.ConvolutionalHead(layer(features, features, 1, 1))
    return nn.Sequential(
        nn.PixelUnshuffle(2), layer(CHANNELS, CHANNELS, 3, side), networks.MaxMin(), layer(CHANNELS, CHANNELS, 1, side),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), head, networks.FirstChannels(classes),
    )  # fmt: skip


class Restless(nn.Module):
    """Holds state in every place that it can lie in, and draws random numbers in every pass in training mode."""

    def __init__(self, image_size: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * image_size**2, classes)
        self.register_buffer("hidden", torch.zeros(()), persistent=False)
        self.plain, self.pair, self.listed = torch.zeros(()), (torch.zeros(()),), [torch.zeros(())]
        self.complex = torch.zeros((), dtype=torch.complex64)
        self.later: Tensor | None = None
        self.calls = 0
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            with torch.no_grad():
                self.hidden += torch.rand(())
                self.plain = self.plain + torch.rand((), generator=self.generator)
                self.pair[0].add_(self.plain)
                self.listed[0] = self.pair[0] * self.calls
                self.complex += 1j * self.plain
                self.later = self.listed[0] + (0 if self.later is None else self.later)
            x = x * (1 + 0.01 * (self.hidden + self.plain + self.pair[0] + self.later + self.complex.imag).cos())
        found: Tensor = self.linear(x.flatten(1))
        return found


class Faulty(nn.Module):
    """Fails in a chosen way after some calls in training mode."""

    def __init__(self, image_size: int, classes: int, how: str = "raise") -> None:
        super().__init__()
        self.linear = nn.Linear(3 * image_size**2, classes)
        self.how, self.calls = how, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        found: Tensor = self.linear(x.flatten(1))
        if self.calls < 5:
            return found
        if self.how == "nan":
            return found * torch.nan
        if self.how == "memory":
            raise MemoryError("no room for 5 images")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        raise ValueError("the fifth call\nalways fails")
