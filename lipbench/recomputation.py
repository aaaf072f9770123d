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


def _turn() -> _Turn | None:
    """The turn that is under way; None outside of one, and in a graph that is being compiled."""
    return None if torch.compiler.is_compiling() else _present.get()


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
    """Whether the backward pass computes the halves again: then it needs what functions save, and no output of the last one.

    Only a function that comes last in an input half may leave out its output.
    """
    turn = _turn()
    return turn is not None and turn.is_repeated


def computed_once(compute: Callable[[Tensor], Tensor], operand: Tensor) -> Tensor:
    """`compute(operand)`; where the halves are computed again, the earlier result.

    `compute` is one operation that autograd gives its result to save, and nothing else. Where the graph behind it is entered
    without the layer's output, as second derivatives may be, it is computed again too.
    """
    turn = _turn()
    if turn is None or (turn.is_repeated and not turn.results):
        return compute(operand)
    if turn.is_repeated:
        known: Tensor = _Known.apply(operand, turn.results.pop(0))  # type: ignore[no-untyped-call]
        return known
    result = compute(operand)
    turn.results.append(result.detach())
    return result


class _Known(torch.autograd.Function):
    """A known result of an operand. It is saved as the operation saves it; the gradient is that of the operation itself, since
    a repetition replaces what the first graph saved, and its own graph is dropped."""

    @staticmethod
    def forward(ctx: Any, operand: Tensor, result: Tensor) -> Tensor:
        result = result.detach()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        raise AssertionError("the graph of a repetition was entered")
