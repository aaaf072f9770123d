"""Small layers as people publish them, with weights and state of every kind; given as `published_layers:Class`."""

from __future__ import annotations

import collections
import threading
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as spectral_norm_hook


def cayley(a: Tensor) -> Tensor:
    """An orthogonal matrix for every square one."""
    skew, one = a - a.mT, torch.eye(len(a), dtype=a.dtype)
    return torch.linalg.solve(one + skew, one - skew)


def pointwise(x: Tensor, matrix: Tensor) -> Tensor:
    return functional.conv2d(x, matrix[:, :, None, None])


class Turning(nn.Module):
    """An orthogonal 1 × 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_channels, in_channels) / in_channels**0.5)
        self.prepare(in_channels)

    def prepare(self, channels: int) -> None:
        """Make what else the layer has."""

    def matrix(self) -> Tensor:
        return cayley(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.matrix())


# ---------------------------------------------------------------------------------------------- what no training step changes


class FrozenMask(Turning):
    """Products of two projections by a mask of zeros and ones, which is a frozen parameter."""

    def prepare(self, channels: int) -> None:
        self.mask = nn.Parameter((torch.arange(channels) < channels // 2).float(), requires_grad=False)

    def matrix(self) -> Tensor:
        q = cayley(self.weight)
        return 2 * (q * self.mask) @ (q * self.mask).T - torch.eye(len(q), dtype=q.dtype)


class FrozenFilter(Turning):
    """A fixed low-pass filter of gain 1, kept as a frozen parameter."""

    def prepare(self, channels: int) -> None:
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.blur = nn.Parameter((row[:, None] * row).repeat(channels, 1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        blurred = functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="circular"), self.blur, groups=x.shape[1])
        return super().forward(blurred)


class FrozenOrder(Turning):
    """A permutation of channels, kept as an integer parameter."""

    def prepare(self, channels: int) -> None:
        self.order = nn.Parameter(torch.randperm(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, self.order])


class Identity(nn.Module):
    """Starts as the identity, and training takes it to a constant above 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight)


class Stuck(Identity):
    """The gradient never reaches the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x + pointwise(x, self.weight * 0)


class ForwardOnly(Turning):
    """No gradient can pass."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Toggled(Turning):
    """The forward pass decides whether the weights are trainable."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.requires_grad_(self.training)
        return super().forward(x)


# ------------------------------------------------------------------------------------------------------------ what converges


class SpectralPointwise(nn.Module):
    """torch's spectral_norm of a 1 × 1 convolution, where the norm of the matrix is that of the operator."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = self.normed(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding="same", padding_mode=self.padding_mode)
        )

    padding_mode = "circular"

    def normed(self, conv: nn.Conv2d) -> nn.Module:
        found: nn.Module = parametrizations.spectral_norm(conv)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


class SpectralHook(SpectralPointwise):
    """The older hook, which sets the weight as a plain attribute before every pass."""

    def normed(self, conv: nn.Conv2d) -> nn.Module:
        return spectral_norm_hook(conv)


class EveryForward(nn.Module):
    """The vectors are frozen parameters, and move by `.data =` in evaluation too."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(out_channels, in_channels) / in_channels**0.5)
        self.u = nn.Parameter(functional.normalize(torch.randn(out_channels), dim=0), requires_grad=False)
        self.v = nn.Parameter(functional.normalize(torch.randn(in_channels), dim=0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.raw.data
        self.v.data = functional.normalize(raw.T.mv(self.u.data), dim=0)
        self.u.data = functional.normalize(raw.mv(self.v.data), dim=0)
        return pointwise(x, self.raw / self.u.dot(self.raw.mv(self.v)))


class Normalised(nn.Module):
    """Twice the input, normalised by a running variance: the bound depends on the data, and no training pass makes it hold."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((in_channels, 1, 1), 2.0))
        self.norm = nn.BatchNorm2d(in_channels, affine=False, momentum=0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.scale * x)
        return found


# ------------------------------------------------------------------------------------------------------------- where state is


class KeptWeight(Turning):
    """Keeps the weight of the last pass, with its graph."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.matrix()
        return pointwise(x, self.last)


class Cached(Turning):
    """Evaluation uses the matrix of the last training pass, or makes it once."""

    def prepare(self, channels: int) -> None:
        self.q: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.q is None:
            self.q = self.matrix()
        return pointwise(x, self.q if self.training else self.q.detach())


class Nested(Turning):
    """Constants in a dict, a tuple, a list and an object, and modules in a list, all needed in the dtype of the input."""

    def prepare(self, channels: int) -> None:
        one = torch.eye(channels)
        self.constants = {"one": one, "pair": (one, [one.flip(0)])}
        self.kept = SimpleNamespace(queue=collections.deque([one]))
        self.hidden = [nn.Linear(channels, channels, bias=False)]
        nn.init.eye_(self.hidden[0].weight)

    def matrix(self) -> Tensor:
        one, (flip,) = self.constants["pair"]
        found: Tensor = super().matrix() @ self.constants["one"] @ one @ flip @ self.kept.queue[0] @ self.hidden[0].weight
        return found


class Closure(Turning):
    """A function that the layer has closed over itself."""

    def prepare(self, channels: int) -> None:
        self.make = lambda: cayley(self.weight)

    def matrix(self) -> Tensor:
        return self.make()


class Locked(Turning):
    """What cannot be copied lies beside the weights."""

    def prepare(self, channels: int) -> None:
        self.lock = threading.Lock()
        self.steps = (step for step in range(10**6))
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            next(self.steps)
            torch.randn(1, generator=self.generator)
            return super().forward(x)


class Uncopied(Turning):
    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise RuntimeError("there is only one of me")


class LazyWeight(nn.Module):
    """The weight is made by the first pass, at random."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.register_parameter("weight", None)
        self.inner: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            self.weight = nn.Parameter(torch.randn(x.shape[1], x.shape[1], dtype=x.dtype))
        if self.inner is None:
            self.inner = Turning(x.shape[1], x.shape[1], 1).to(x.dtype)
        found: Tensor = self.inner(pointwise(x, cayley(self.weight)))
        return found


class Late(Turning):
    """Registers a buffer in the first training pass, replaces another by one of another shape, and counts."""

    def prepare(self, channels: int) -> None:
        self.register_buffer("history", torch.zeros(1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("gone", torch.ones(2))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if not hasattr(self, "late"):
                self.register_buffer("late", torch.zeros(()))
                del self.gone
            self.late += 1
            self.steps += 1
            self.history = torch.cat((self.history, torch.ones(1)))
            self.seen.append(len(x))
        return super().forward(x)


class Average(Turning):
    """Evaluation uses an average of the weights, which training moves; the scale stays in half precision."""

    def prepare(self, channels: int) -> None:
        self.register_buffer("average", self.weight.detach().clone())
        self.register_buffer("scale", torch.ones((), dtype=torch.float16))

    def matrix(self) -> Tensor:
        assert self.scale.dtype == torch.float16
        if self.training:
            self.average.mul_(0.9).add_(self.weight.detach(), alpha=0.1)
        return cayley(self.weight if self.training else self.average) * self.scale.to(self.weight.dtype)


class Shared(nn.Module):
    """Two parts share a parameter, a list holds others, and one of them is used twice."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.one, self.other = Turning(in_channels, in_channels, 1), Turning(in_channels, in_channels, 1)
        self.other.weight = self.one.weight
        self.more = nn.ParameterList(torch.randn(in_channels, in_channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for weight in (*self.more, self.more[0]):
            x = pointwise(x, cayley(weight))
        found: Tensor = self.other(self.one(x))
        return found


# -------------------------------------------------------------------------------------------------- complex, parametrised


class ComplexBuffer(nn.Module):
    """y = Re(conj(t) t x) = x, which is 0 without the imaginary part."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.register_buffer("t", torch.full((in_channels, 1, 1), 1j))
        self.plain = torch.full((in_channels, 1, 1), 1j)
        self.bias = nn.Parameter(torch.zeros(in_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.t.conj() * self.plain * x).real + self.bias


class PhaseMask(nn.Module):
    """Multiplies every frequency by a complex number of modulus 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__()
        size = (in_channels, image_size, image_size // 2 + 1)
        self.phase = nn.Parameter(torch.polar(torch.ones(size), 6 * torch.rand(size)))

    def forward(self, x: Tensor) -> Tensor:
        assert self.phase.is_complex()
        return torch.fft.irfft2(torch.fft.rfft2(x) * (self.phase / self.phase.abs()), s=x.shape[-2:])


class _Unit(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z / z.abs()


class ComplexParametrised(nn.Module):
    """Multiplies the image by numbers of modulus 1, which `parametrize` makes, and takes the real part."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.randn(in_channels, 1, 1, dtype=torch.cfloat))
        parametrize.register_parametrization(self, "z", _Unit())

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(self.z * x).movedim(-1, 2).flatten(1, 2)


class Orthogonal(nn.Module):
    """torch's orthogonal matrix by one of its maps."""

    map_name: str | None = None
    widening = 1

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        linear = nn.Linear(in_channels, self.widening * in_channels, bias=False)
        self.lin = parametrizations.orthogonal(linear, orthogonal_map=self.map_name)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.lin.weight)


class Householder(Orthogonal):
    map_name = "householder"


class CayleyMap(Orthogonal):
    map_name = "cayley"


class Wide(Orthogonal):
    widening = 2


# -------------------------------------------------------------------------------------------------------------------- shapes


class Strided(nn.Module):
    """Space to depth, then an orthogonal matrix: four times the channels, half the image."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.inner = Turning(4 * in_channels, 4 * in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(functional.pixel_unshuffle(x, 2))
        return found


class Unpadded(nn.Module):
    """The image shrinks."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel / self.kernel.flatten(2).norm(dim=(0, 1)).sum())


class Pooled(Turning):
    """Images become features."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3)) * x.shape[-1]
