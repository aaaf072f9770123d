"""Work that no counter can see, because it is done outside PyTorch: by numpy, or by code that writes into a tensor's memory.

An operation of PyTorch is seen by a dispatch mode; a loop in C or a numpy function is not. Two things give such work away: a
tensor's memory is handed out, or a tensor that an operation left uninitialised is read before any operation has written it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lipbench.meters.free import is_view

HANDED_OUT = {
    getattr(Tensor, name): f"Tensor.{name}" for name in ("numpy", "__array__", "__dlpack__", "data_ptr", "tolist")
}  # fmt: skip
"""methods that give a tensor's values to other code"""
UNWRITTEN = "memory written outside PyTorch"
_UNINITIALISED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}


class HandingOut(TorchFunctionMode):
    """Records the methods of `HANDED_OUT` that are called, except within an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which nothing is recorded: an operation, which has a formula or is listed as a whole."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = HANDED_OUT.get(func)
        if name is not None and not self._paused:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


class Unwritten:
    """The storages that operations left uninitialised, until an operation writes them."""

    def __init__(self) -> None:
        self._empty: dict[int, torch.UntypedStorage] = {}

    def reads(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operation, which is about to run, reads an uninitialised tensor; notes what it writes."""
        if not self._empty:
            return False
        for key in self._keys([value for value, writes in _arguments(func, args, kwargs) if writes]):
            del self._empty[key]
        name = func._schema.name.partition("::")[2]
        if is_view(func) or name.endswith("_like") or name.startswith("new_"):
            return False  # these look at sizes alone
        return self.contains((args, kwargs))

    def made(self, func: Any, result: Any) -> None:
        """Note the result of an operation. One uninitialised element stands for a tensor whose values nothing needs."""
        if func._schema.name.partition("::")[2] in _UNINITIALISED and result.numel() > 1:
            storage = result.untyped_storage()
            self._empty[storage._cdata] = storage

    def contains(self, values: Any) -> bool:
        """Whether one of the tensors among the values was never written."""
        return bool(self._keys(values))

    def _keys(self, values: Any) -> set[int]:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]
        return {tensor.untyped_storage()._cdata for tensor in tensors} & self._empty.keys()


def _arguments(func: Any, args: Any, kwargs: Any) -> list[tuple[Any, bool]]:
    """The arguments of a call, and whether the operation writes each."""
    schema = func._schema.arguments
    named = {argument.name: argument for argument in schema}
    given = [*zip(args, schema), *((value, named[name]) for name, value in kwargs.items() if name in named)]
    return [(value, argument.alias_info is not None and argument.alias_info.is_write) for value, argument in given]
