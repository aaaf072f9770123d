"""Bytes that a training forward pass keeps for the backward pass: those that autograd is given, and those that it is not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lipbench.meters import live
from lipbench.meters.places import Places


def storages(tensors: Iterable[Tensor]) -> list[torch.UntypedStorage]:
    """The distinct storages behind tensors, views and conjugates included."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return list({storage._cdata: storage for storage in found}.values())


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(storage.nbytes() for storage in storages(tensors))


@contextmanager
def _saved_tensors(also: Callable[[], object] = lambda: None) -> Iterator[list[Tensor]]:
    """Tensors that autograd saves within the block, detached from their graphs; the list keeps them alive.

    `also` is called for each of them.
    """
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        also()
        saved.append(tensor.detach())
        return saved[-1]  # not `tensor` itself: a graph that holds its own output would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _of_contexts(results: object) -> Iterator[tuple[object, Tensor]]:
    """Tensors that custom autograd functions keep as attributes of their contexts, in the graph behind results, each with its
    context.

    The node of such a function in the graph is its context. The state of the random generator, which checkpointing keeps, is
    left out: it is the same for every layer.
    """
    random_state = torch.get_rng_state()
    waiting = [leaf.grad_fn for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
    visited = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
        for leaf in tree_leaves(getattr(node, "__dict__", {})):
            if isinstance(leaf, Tensor) and (leaf.dtype, leaf.shape) != (random_state.dtype, random_state.shape):
                yield node, leaf


def _kept(run: Callable[[], object]) -> list[Tensor]:
    """Tensors kept for the backward pass of `run()`: those that autograd saves, and those of contexts in its results' graph."""
    with _saved_tensors() as saved:
        results = run()
    return [*saved, *(tensor for _, tensor in _of_contexts(results))]


def saved_bytes(run: Callable[[], object]) -> int:
    """Bytes of the distinct storages kept for the backward pass during `run()`, with weights and inputs.

    Tensors that a custom `autograd.Function` keeps as attributes of its context are seen only if `run()` returns the output.
    """
    return bytes_of(_kept(run))


def saved_by_place(run: Callable[[], object], places: Places) -> dict[str, int]:
    """The bytes of `saved_bytes` by the path of the part that keeps them; a storage that several keep counts for the first."""
    found: dict[str, int] = {}
    known: set[int] = set()

    def note(tensor: Tensor, place: str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            found[place] = found.get(place, 0) + storage.nbytes()

    kept_at: list[str] = []
    with _saved_tensors(lambda: kept_at.append(places.now())) as saved:
        results = run()
    for tensor, place in zip(saved, kept_at, strict=True):
        note(tensor, place)
    for node, tensor in _of_contexts(results):
        note(tensor, places.of_node(node))
    return found


def saved_elements(run: Callable[[], object]) -> int:
    """The same in elements: a complex element counts as two, an element of an index tensor as one."""
    kept = _kept(run)
    size = {tensor.untyped_storage()._cdata: _real_size(tensor) for tensor in kept}
    return sum(storage.nbytes() // size[storage._cdata] for storage in storages(kept))


def unseen_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass leaves in use beside its output, what `saved_bytes` counts, and attributes of modules.

    They are kept where autograd does not know of them: in a closure, in a hook, or in an object of the layer. The input is a
    copy of `x`, so that it counts where it is kept.
    """
    tracker = live.LiveStorages()
    outputs: list[object] = []

    def run() -> object:
        outputs.append(module(x.clone()))
        return outputs

    with tracker:
        kept = _kept(run)
    attributes = [vars(part) for part in module.modules()]
    known = [leaf for leaf in tree_leaves((kept, outputs, attributes)) if isinstance(leaf, Tensor)]
    if tracker.in_use_besides(known):
        gc.collect()  # cycles of references keep tensors that nothing needs
    return tracker.in_use_besides(known)


def _real_size(tensor: Tensor) -> int:
    return tensor.element_size() // (2 if tensor.is_complex() else 1)
