"""Bytes that operations of PyTorch move, counted as they run: what a kernel says that it replaces is checked against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lipbench_kernels.launching import Work
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

VIEWS = {"alias", "_conj", "detach", "expand", "permute", "select", "slice", "transpose", "unsqueeze", "view"}


class Traffic(TorchDispatchMode):
    """Every operation but views reads each of its tensors once and writes its results; fused nowhere, cached nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = self.written_bytes = self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in VIEWS:
            read = {one.untyped_storage().data_ptr(): one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
            self.launches += 1
            self.read_bytes += sum(one.nbytes for one in read.values())
            self.written_bytes += sum(one.nbytes for one in tree_leaves(result) if isinstance(one, Tensor))
        return result


def counted(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Work, Work]:
    """What a function of a tensor does, forward and backward. A complex product is four real ones."""
    factor = 4 if x.is_complex() else 1
    x = x.clone().requires_grad_()
    with Traffic() as forward, FlopCounterMode(display=False) as flops:
        y = function(x)
    ones = torch.ones_like(y)
    with Traffic() as backward, FlopCounterMode(display=False) as backward_flops:
        torch.autograd.grad(y, x, ones)
    first, second = (
        Work(factor * one.get_total_flops() // 2, way.read_bytes, way.written_bytes, way.launches)
        for one, way in ((flops, forward), (backward_flops, backward))
    )
    return first, second
