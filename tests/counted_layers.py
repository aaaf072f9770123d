"""External layers whose costs are easy to miss, given as `counted_layers:Class`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize


class Pointwise(nn.Module):
    """A 1 × 1 convolution, b s² c² MACs. Subclasses change how it is computed."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(out_channels, in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight[:, :, None, None])


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Parametrised(Pointwise):
    """Its weight is computed by `torch.nn.utils.parametrize`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        parametrize.register_parametrization(self, "weight", Doubled())


class Spectral(nn.Sequential):
    """Power iterations with `out=`, in training mode only."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(parametrizations.spectral_norm(nn.Conv2d(in_channels, out_channels, 1)))


class WholeBatches(Pointwise):
    """Refuses other batch sizes than 4."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in (1, 4):
            raise ValueError("needs 4 images")
        return super().forward(x)


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError("no backward pass")


class NoBackward(Pointwise):
    def forward(self, x: Tensor) -> Tensor:
        return _NoBackward.apply(super().forward(x))


class NoParameters(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Detached(Pointwise):
    """No gradient reaches its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.kept = {"x": x, "weight": weight}
        return functional.conv2d(x, weight[:, :, None, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.kept["x"], ctx.kept["weight"]
        return functional.conv2d(gradient, weight.T[:, :, None, None]), torch.einsum("bohw,bihw->oi", gradient, x)


class HiddenInContext(Pointwise):
    """Keeps its input and its weight as attributes of the context."""

    def forward(self, x: Tensor) -> Tensor:
        return _Hidden.apply(x, self.weight)


class HiddenInHook(Pointwise):
    """Keeps b s² c elements in a closure."""

    def forward(self, x: Tensor) -> Tensor:
        kept, y = x * 3, super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * kept)
        return y


class _Numpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return torch.from_numpy(weight.detach().numpy() @ x.detach().numpy().reshape(len(x), len(weight), -1)).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


class InNumpy(Pointwise):
    def forward(self, x: Tensor) -> Tensor:
        return _Numpy.apply(x, self.weight)


@torch.library.custom_op("lipbench_counted::pointwise", mutates_args=())
def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight[:, :, None, None])


@pointwise.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


class CustomOperator(Pointwise):
    """The costs of its operator are unknown."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight)


class SingularValues(Pointwise):
    """Divides by the largest singular value, in the parameter half."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / torch.linalg.svdvals(self.weight)[0]
