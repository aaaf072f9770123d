"""The graph of a module: constants, nodes that depend on the input, and how they are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Constant:
    """A tensor that does not depend on the input."""

    value: Tensor


@dataclass(eq=False)
class Node:
    """An operation that depends on the input; the input itself has no `call`."""

    name: str
    """name of the operation, without namespace and overload, as in "relu", also where it was written in place"""
    place: int
    """position on the tape: arguments come before their users"""
    call: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    """shape of the result; () where the operation has several results, each of which is a node "item" """
    dtype: torch.dtype = torch.float64
    layer: nn.Module | None = None
    """the layer whose forward pass is this node"""
    arguments: tuple[Node, ...] = field(init=False)
    """the nodes among the arguments, each as often as it occurs"""

    def __post_init__(self) -> None:
        self.arguments = nodes_in((self.args, self.kwargs))


Symbol = Node | Constant


@dataclass(frozen=True)
class Graph:
    """What a module computes: the node of the input, and the result."""

    source: Node
    result: Symbol


def leaves(value: Any) -> list[Any]:
    """Everything within nested lists, tuples and dictionaries."""
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return leaves(list(value.values())) if isinstance(value, dict) else [value]


def nodes_in(value: Any) -> tuple[Node, ...]:
    """The nodes within nested lists, tuples and dictionaries."""
    return tuple(leaf for leaf in leaves(value) if isinstance(leaf, Node))


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested lists, tuples and dictionaries with every leaf changed."""
    if isinstance(value, list | tuple):
        return type(value)([replaced(each, change) for each in value])
    return {name: replaced(each, change) for name, each in value.items()} if isinstance(value, dict) else change(value)


def needed(targets: Iterable[Symbol], known: set[Node]) -> list[Node]:
    """Nodes that `targets` are computed from, without the known ones and what only those need, in order."""
    found: set[Node] = set()
    waiting = [target for target in targets if isinstance(target, Node)]
    while waiting:
        node = waiting.pop()
        if node not in found and node not in known:
            found.add(node)
            waiting += node.arguments
    return sorted(found, key=lambda node: node.place)


def evaluate(targets: Sequence[Symbol], given: dict[Node, Tensor], nodes: Sequence[Node] | None = None) -> list[Tensor]:
    """Values of `targets`, where the nodes in `given` have the given values; `nodes` are those that are `needed`, if known."""
    values = dict(given)

    def value(leaf: Any) -> Any:
        return leaf.value if isinstance(leaf, Constant) else values[leaf] if isinstance(leaf, Node) else leaf

    for node in needed(targets, set(given)) if nodes is None else nodes:
        assert node.call is not None
        values[node] = node.call(*replaced(node.args, value), **replaced(node.kwargs, value))
    return [value(target) for target in targets]


def cost(targets: Sequence[Symbol], known: set[Node]) -> float:
    """Estimated work of one evaluation: entries written, times the entries of a constant that each is a sum over."""
    total = 0.0
    for node in needed(targets, known):
        factors = [leaf.value for leaf in leaves(node.args) if isinstance(leaf, Constant)]
        sums = max((factor.numel() / max(1, factor.shape[0]) for factor in factors if factor.dim() > 1), default=1.0)
        total += math.prod(node.shape) * sums
    return total
