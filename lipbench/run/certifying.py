"""The certificate of a module whose own state may not have settled yet, such as vectors of power iterations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from lipbench import building, certify, registry, training
from lipbench.quantities import Certificate
from lipbench.state import State
from lipbench.weights import copied
from lipbench.workload import Workload

PASSES = 100
"""number of training passes after which a module is certified again"""
SCALES = (1.0, 1e-2)
"""Sizes of the images in these passes. State that converges with the weights alone settles with any; statistics of the input,
such as those of batch normalisation, do not, and so they hold no bound."""


def certified(
    module: nn.Module,
    like: Tensor,
    training_mode: bool = True,
    each_layer: bool = False,
    remake: Callable[[], nn.Module] | None = None,
    claimed: float = 1.0,
) -> Certificate:
    """The certificate of a module as it is; if that violates, and only because state has not settled, that of the settled one.

    State settles in 100 forward passes in training mode, without a step: weights stay the same. A remark then says how
    large the constant was before. The parameters and errors are those of `certify.certify`; the module stays as it is.
    """
    judged = functools.partial(
        certify.certify, like=like, training=training_mode, each_layer=each_layer, remake=remake, claimed=claimed
    )
    found = judged(module)
    if not certify.violation(found) or not _moves(module, like, remake):
        return found
    for scale in SCALES:
        settled = copied(module, remake)
        training.pass_through(settled, like, PASSES, scale)
        if certify.violation(judged(settled, training=False)):
            return found
    later = judged(settled)
    before, after = (one.evaluation[0].largest if one.evaluation else 0.0 for one in (found, later))
    text = f"{before:.6f} before the layer's own state has settled, {after:.6f} after {PASSES} training passes without a step"
    return replace(later, remarks=(text, *later.remarks))


def remaker(workload: Workload) -> Callable[[], nn.Module]:
    """A function that builds the module of a workload anew, with the same treatment of its input."""

    def remake() -> nn.Module:
        module = registry.build(workload.case.spec)
        if building.overwrites(workload.module):
            building.let_it_overwrite(module)
        return module

    return remake


def _moves(module: nn.Module, like: Tensor, remake: Callable[[], nn.Module] | None) -> bool:
    """Whether a forward pass in training mode changes anything that the module holds."""
    one = copied(module, remake)
    state = State(one)
    try:
        training.pass_through(one, like, 1, 1.0)
    except Exception:  # an external module may raise anything
        return False
    return state.is_changed()
