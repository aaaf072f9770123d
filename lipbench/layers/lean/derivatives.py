"""The first derivative alone: what the backward pass of a custom function says when it is differentiated itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipbench import errors

Gradients = tuple[Tensor | None, ...]


def first_alone(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorator of a backward pass: a second derivative raises `LipbenchError`. The function saves its inputs themselves.

    `torch.autograd.function.once_differentiable` refuses in a node from which no path leads on to the inputs. So
    `torch.autograd.grad`, which runs only what leads to the tensors that it is given, would leave that node out, and give a
    wrong sum where there are other paths. Here the refusing node leads to all inputs.
    """

    @functools.wraps(backward)
    def refusing(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # the compiler refuses second derivatives by itself
            return found
        present = [one for one in found if one is not None]
        tensors = (*present, *gradients, *ctx.saved_tensors)
        refused = iter(_Refused.apply(len(present), *tensors))  # type: ignore[no-untyped-call]  # torch gives it no types
        return tuple(None if one is None else next(refused) for one in found)

    return refusing


class _Refused(torch.autograd.Function):
    """Gives its first tensors; all of them depend on all of its tensors, by a derivative that raises."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise errors.no_second_derivative()
