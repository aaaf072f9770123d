"""Maps and layers that do not compute what they are given in the dtype that they are given, after published layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Map = Callable[[Tensor], Tensor]
CHANNELS = 4


def orthogonal(seed: int, channels: int = CHANNELS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    factor, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))
    return factor


def mixed(x: Tensor, weight: Tensor) -> Tensor:
    """The 1 × 1 convolution with a matrix."""
    return functional.conv2d(x, weight.to(x.dtype)[:, :, None, None])


def solved(x: Tensor, weight: Tensor, factor: float) -> Tensor:
    """z = D z + (1 − D) W x with a diagonal D, image by image to a relative change of 1e-5: the constant is ‖W‖."""
    factors = torch.linspace(0.2 * factor, factor, CHANNELS, dtype=x.dtype).view(1, -1, 1, 1)
    target = (1 - factors) * mixed(x, weight)
    z = torch.zeros_like(target)
    active = torch.ones(len(x), 1, 1, 1, dtype=torch.bool)
    for _ in range(200):
        new = torch.where(active, factors * z + target, z)
        change = (new - z).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1).clamp_min(1e-300)
        z, active = new, active & (change > 1e-5)[:, None, None, None]
    return z


def noisy_map(inside: str, constant: float, bent: bool, seed: int) -> Map:
    """A map of known constant, linear or with a ReLU (`bent`), that computes as `inside` says."""
    weight = constant * orthogonal(seed)

    def within(x: Tensor) -> Tensor:
        kind, _, size = inside.partition(" ")
        if kind in ("float32", "bfloat16", "float16"):
            return mixed(x.to(getattr(torch, kind)), weight)
        if kind == "grid":
            return (mixed(x, weight) / float(size)).round() * float(size)
        if kind == "random":
            y = mixed(x, weight)
            return y + float(size) * torch.randn_like(y)
        return solved(x, weight, float(size)) if kind == "solver" else mixed(x, weight)

    return lambda x: (within(x).relu() if bent else within(x)).to(x.dtype)


class Noisy(nn.Module):
    """A layer that computes `noisy_map`."""

    def __init__(self, inside: str, constant: float, bent: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.map = noisy_map(inside, constant, bent, seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


class PaddedByZeros(nn.Module):
    """Half of an orthogonal map, written into a new tensor of the default dtype."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:])
        out[:, : x.shape[1]] = mixed(x, 0.5 * orthogonal(0))
        return out[:, : x.shape[1]]


class StraightThrough(nn.Module):
    """Rounds to a grid of 1/8; its gradient is that of the map that does not."""

    def forward(self, x: Tensor) -> Tensor:
        y = mixed(x, orthogonal(0))
        return y + ((8 * y).round() / 8 - y).detach()


class Threshold(nn.Module):
    """Small entries become zero: hard thresholding."""

    def forward(self, x: Tensor) -> Tensor:
        y = mixed(x, 0.5 * orthogonal(0))
        return y * (y.abs() > 0.1)


class Equilibrium(nn.Module):
    """z = relu(W z + U x), solved to a relative change of 1e-5 of the batch: the constant is at most ‖U‖ ÷ (1 − ‖W‖) = 0.4."""

    def forward(self, x: Tensor) -> Tensor:
        z, of_input = torch.zeros_like(x), mixed(x, 0.2 * orthogonal(0))
        with torch.no_grad():
            for _ in range(200):
                new = functional.relu(mixed(z, 0.5 * orthogonal(1)) + of_input)
                change, z = float((new - z).norm() / (1e-6 + new.norm())), new
                if change < 1e-5:
                    break
        return functional.relu(mixed(z, 0.5 * orthogonal(1)) + of_input)


class RandomShort(nn.Module):
    """A norm from few power steps that begin at a random vector in each call, with a safety factor: at most 1."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter((orthogonal(0) * torch.tensor([2.0, 1.9, 1.0, 0.5])).float())  # 1.9 ÷ 2: it converges slowly

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            v = torch.randn(CHANNELS, dtype=self.raw.dtype)
            for _ in range(5):
                v = functional.normalize(self.raw.T @ (self.raw @ v), dim=0)
        return mixed(x, self.raw / (1.5 * (self.raw @ v).norm()))


class EveryForward(nn.Module):
    """The wrapper of many GANs: the vectors of the power iteration move at every call, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(orthogonal(0).float() * torch.tensor([2.0, 1.0, 1.0, 0.5]))
        self.u = nn.Parameter(functional.normalize(torch.ones(CHANNELS), dim=0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        v = functional.normalize(self.raw.data.T.mv(self.u.data), dim=0)
        self.u.data = functional.normalize(self.raw.data.mv(v), dim=0)
        return mixed(x, self.raw / self.u.dot(self.raw.mv(v)))


class DropoutMix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(mixed(x, orthogonal(0)))


class CentredBatch(nn.Module):
    """Subtracts the mean of the batch in training, a running one in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x - (x.mean((0, 2, 3), keepdim=True) if self.training else self.mean)


class ActNorm(nn.Module):
    """Scale and shift: its constant is the largest scale."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor([0.1, -0.1, 0.5, 0.0]).view(1, CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) * self.logs.exp()


class WrongBackward(torch.autograd.Function):
    """Doubles its input; the backward pass forgets all channels but the last."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.cat((0 * gradient[:, :-1], gradient[:, -1:]), dim=1)


class NoBackward(WrongBackward):
    """The same; the backward pass raises."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError("only the forward pass")
