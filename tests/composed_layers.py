"""Random compositions of known parts, small enough for dense Jacobians; and layers whose parts do not tell their constant."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

DEPTH, CHANNELS, SIZE = 5, 4, 6


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]  # modules return Any


class Concatenation(nn.Module):
    """Two maps of one input, beside each other."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList((one, other))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class MaxMinOfHalves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), 1)


class HalfActive(nn.Module):
    """ReLU written into the first channel of a copy."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :1] = functional.relu(y[:, :1])
        return y


ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, lambda: nn.LeakyReLU(0.3), nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.Softplus,
    nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Softsign, nn.PReLU, lambda: nn.Softmax(1), HalfActive,
)  # fmt: skip
PADDINGS = ("zeros", "circular", "reflect", "replicate")


def convolution(chance: random.Random, before: int, after: int, size: int, stride: int = 1) -> nn.Module:
    kernel = chance.choice((1, 3)) if size > 1 else 1
    layer = nn.Conv2d(before, after, kernel, stride, kernel // 2, padding_mode=chance.choice(PADDINGS))
    return nn.Sequential(layer, Scaled(2 ** chance.uniform(-0.5, 1.5)))


def part(chance: random.Random, channels: int, size: int) -> nn.Module:
    """One part for images of these channels and this size."""
    options: list[Callable[[], nn.Module]] = [
        lambda: convolution(chance, channels, chance.randint(1, CHANNELS), size),
        lambda: Residual(nn.Sequential(convolution(chance, channels, channels, size), chance.choice(ACTIVATIONS)())),
        chance.choice(ACTIVATIONS),
    ]
    if channels <= CHANNELS // 2:
        options.append(lambda: Concatenation(convolution(chance, channels, channels, size), chance.choice(ACTIVATIONS)()))
    if channels % 2 == 0:
        options.append(MaxMinOfHalves)
    if size > 2:
        options += [
            lambda: convolution(chance, channels, chance.randint(1, CHANNELS), size, stride=2),
            lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2), lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.LPPool2d(2, 2),
        ]  # fmt: skip
    if 1 < size <= SIZE - 2:
        options += [lambda: nn.ZeroPad2d(1), lambda: nn.ReflectionPad2d(1), lambda: nn.CircularPad2d(1)]
    if size <= SIZE // 2:
        options += [lambda: nn.Upsample(scale_factor=2), lambda: nn.Upsample(scale_factor=2, mode="bilinear")]
    return chance.choice(options)()


def composition(seed: int) -> tuple[nn.Module, Tensor]:
    """A module of up to `DEPTH` parts, in evaluation mode, and a zero of its input's shape, (1, c, s, s)."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    like = torch.zeros(1, chance.randint(1, CHANNELS), *[chance.randint(2, SIZE)] * 2, dtype=torch.float64)
    parts: list[nn.Module] = []
    x = like
    for _ in range(chance.randint(1, DEPTH)):
        parts.append(part(chance, x.shape[1], x.shape[-1]).double().eval())
        x = parts[-1](x.clone()).detach()
    return nn.Sequential(*parts), like


def dense_constant(module: nn.Module, like: Tensor) -> float:
    """The largest norm of the Jacobian at many points: a lower bound of the constant, and the constant of an affine map."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-1.5, 1.5, 60, dtype=torch.float64).view(-1, 1, 1, 1)
    x = (scales * torch.randn(60, *like.shape[1:], generator=generator, dtype=torch.float64)).requires_grad_()
    outputs = module(x.clone()).flatten(1).sum(0)
    rows = [torch.autograd.grad(output, x, retain_graph=True)[0].flatten(1) for output in outputs]
    return float(torch.linalg.svdvals(torch.stack(rows, 1).nan_to_num()).max())


# --------------------------------------------------------------------------------------------- layers that look harmless


def orthogonal(channels: int) -> nn.Conv2d:
    """An orthogonal 1 × 1 convolution."""
    layer = nn.Conv2d(channels, channels, 1)
    nn.init.orthogonal_(layer.weight.data.view(channels, channels))
    return layer


class AddsItsInput(nn.Sequential):
    """A sequence with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)  # type: ignore[no-any-return]  # modules return Any


class TwiceInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = orthogonal(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(functional.relu(x)) * (2 if self.training else 1)


class Listed(nn.Module):
    """Its parts stand in a list, and one of them is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList((orthogonal(4), nn.GELU()))

    def forward(self, x: Tensor) -> Tensor:
        for each in (*self.parts, *self.parts):
            x = each(x)
        return x


class Looks(nn.Module):
    """Another map for images with a positive sum."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x.abs() if x.sum() > 0 else x


class Rounds(nn.Module):
    """Straight through: the gradient of the identity, and steps."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()


class Indexed(nn.Module):
    """Its first part takes integers: positions, not values."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x[:, 0, 0].abs().long().clamp(max=7))  # type: ignore[no-any-return]  # modules return Any


class Centres(nn.Module):
    """Subtracts the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x - 0.5 * x.mean(0, keepdim=True))
