"""Halves of a layer that the backward pass computes again, and what it does not repeat of them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class _Turn:
    """One forward pass, and its repetition in the backward pass."""

    def __init__(self) -> None:
        self.is_repeated = False
        self.results: list[Tensor] = []
        """of `computed_once`, without gradients: those of the forward pass, and later those that the repetition still takes"""


_present: ContextVar[_Turn | None] = ContextVar("_present", default=None)


def recomputed(halves: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`halves(*given)`, of which the backward pass keeps the given tensors, and computes everything else again.

    It also keeps the results of `computed_once`. A compiled graph repeats those too: its compiler has to see all operations.
    """
    if torch.compiler.is_compiling():
        compiled: Tensor = checkpoint(halves, *given, use_reentrant=False, preserve_rng_state=False)
        return compiled
    turn = _Turn()

    def in_turn(*given: Tensor) -> Tensor:
        token = _present.set(turn)
        try:
            return halves(*given)
        finally:
            _present.reset(token)
            turn.is_repeated = True

    output: Tensor = checkpoint(in_turn, *given, use_reentrant=False, preserve_rng_state=False)
    return _WithResults.apply(output, turn) if turn.results else output  # type: ignore[no-untyped-call]


class _WithResults(torch.autograd.Function):
    """The output itself. Autograd keeps the results of a turn with it, and its backward pass gives them to the repetition."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, turn: _Turn) -> Tensor:
        ctx.turn = turn
        ctx.save_for_backward(*turn.results)
        turn.results = []
        ctx.mark_dirty(output)  # it is no view then, which in-place operations would refuse
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.turn.results = list(ctx.saved_tensors)
        return gradient, None


def is_repeated() -> bool:
    """Whether the backward pass computes the halves again: it needs what functions save, and no output of the last one."""
    if torch.compiler.is_compiling():
        return False
    turn = _present.get()
    return turn is not None and turn.is_repeated


def computed_once(compute: Callable[[], Tensor], known: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute()`; where the halves are computed again, `known(result)`, which gives the earlier result its gradient.

    Both must save tensors of the same sizes, in the same order.
    """
    turn = None if torch.compiler.is_compiling() else _present.get()
    if turn is None:
        return compute()
    if turn.is_repeated:
        return known(turn.results.pop(0))
    result = compute()
    turn.results.append(result.detach())
    return result
