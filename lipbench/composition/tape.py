"""The tape: which operations a module applies to its input, found by running it once.

Every operation of PyTorch passes through a dispatch mode, after functions, methods, modules, hooks and parametrizations have
been resolved into operations of `aten`. So the tape needs no source code, and Python code that does not depend on values may do
anything. The result is a graph: a node per operation that depends on the input, and constants for everything else. Writes in
place become new nodes, also those into a part of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lipbench.composition.graph import Constant, Node, Symbol, nodes_in, replaced

WHOLE = {
    functional.softsign: "softsign", functional.tanhshrink: "tanhshrink", functional.lp_pool1d: "lp_pool1d",
    functional.lp_pool2d: "lp_pool2d", functional.lp_pool3d: "lp_pool3d",
}  # fmt: skip
"""Functions that become one node. Their operations would be a product or a difference of tensors that depend on the input."""
SHAPE_ONLY = {
    "empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided",
    "fill", "zero",
}  # fmt: skip
"""Operations whose result does not depend on the values of their first argument."""


class UntraceableError(Exception):
    """A module whose operations are unknown or change from call to call; the text says why."""


# --------------------------------------------------------------------------------------------------------------- recording


@dataclass(frozen=True)
class _Step:
    """One step from a tensor to a view of it."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    item: int | None

    def __call__(self, tensor: Tensor) -> Any:
        out = self.call(tensor, *self.args, **self.kwargs)
        return out if self.item is None else out[self.item]


@dataclass(eq=False)
class _Family:
    """A tensor and its views: a write into one of them changes all."""

    tensor: Tensor
    symbol: Symbol
    outside: bool
    """whether the tensor existed before the call, as parameters and buffers do"""
    version: int = 0


@dataclass(eq=False)
class _Handle:
    """What a tensor of the running module is on the tape."""

    tensor: Tensor
    family: _Family
    steps: tuple[_Step, ...]
    symbol: Symbol
    version: int


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Records the operations of the module that runs while the mode is active."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._handles: dict[int, _Handle] = {}  # by identity: the handles keep the tensors alive
        self._constants: list[Constant] = []
        self._seen: dict[Any, Symbol] = {}
        self._places = 0
        self._paused = False
        self.source = self._node("input", None, (), {}, x)
        self._adopt(x, self.source, outside=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise UntraceableError(f"it uses random numbers ({func.name().removeprefix('aten::')})")
        written = _written(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        name = name.removesuffix("_") if written is not None else name
        symbols = self._symbols(args, kwargs)
        if name == "copy":
            symbols = ((Constant(args[0].detach().clone()), *symbols[0][1:]), symbols[1])
        if written is not None:
            self._keep_constants(written)
        out = func(*args, **kwargs)
        if isinstance(out, bool | int | float | complex) and nodes_in(symbols):
            raise UntraceableError("its operations may depend on values of its input")
        if written is not None:
            given, named = symbols
            self._write(written, self._record(name, _on_a_copy(func), given, named, written))
        else:
            self._note(name, func, args, kwargs, symbols, out)
        return out

    def whole(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of the input as one node."""
        symbols = self._symbols(args, kwargs)
        self._paused = True
        try:
            out = call(*args, **kwargs)
        finally:
            self._paused = False
        layer = getattr(call, "__self__", None)
        symbol = self._record(name, call, *symbols, out, layer if isinstance(layer, nn.Module) else None)
        self._adopt(out, symbol, outside=False)
        return out

    def symbol(self, tensor: Tensor) -> Symbol:
        """The node or constant that a tensor is at this moment."""
        handle = self._handles.get(id(tensor))
        if handle is None:
            return self._adopt(tensor, self._constant(tensor.detach()), outside=True)
        if handle.version != handle.family.version:
            symbol = handle.family.symbol
            for step in handle.steps:
                symbol = self._replay(step, symbol)
            handle.symbol, handle.version = symbol, handle.family.version
        return handle.symbol

    def _symbols(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        found: tuple[tuple[Any, ...], dict[str, Any]] = replaced(
            (args, kwargs), lambda leaf: self.symbol(leaf) if isinstance(leaf, Tensor) else leaf
        )
        return found

    def _adopt(self, tensor: Tensor, symbol: Symbol, outside: bool) -> Symbol:
        self._handles[id(tensor)] = _Handle(tensor, _Family(tensor, symbol, outside), (), symbol, 0)
        return symbol

    def _constant(self, value: Tensor) -> Constant:
        self._constants.append(Constant(value))
        return self._constants[-1]

    def _keep_constants(self, written: Tensor) -> None:
        """Copy the constants that a write will change: their users on the tape have read the old values."""
        storage = written.untyped_storage()._cdata
        for constant in self._constants:
            if constant.value.untyped_storage()._cdata == storage:
                constant.value = constant.value.clone()

    def _record(
        self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any,
        layer: nn.Module | None = None,
    ) -> Symbol:  # fmt: skip
        """The node of a call; a constant where nothing depends on the input, then `out` is its value."""
        unused = 1 if name in SHAPE_ONLY else 0
        if not nodes_in((args[unused:], kwargs)):
            return self._constant(out.detach() if isinstance(out, Tensor) else torch.empty(0))
        form = repr(replaced((args, kwargs), lambda leaf: id(leaf) if isinstance(leaf, Node | Constant) else leaf))
        key = (name, id(getattr(call, "kept", call)), form)
        if key not in self._seen:
            self._seen[key] = self._node(name, call, args, kwargs, out, layer)
        return self._seen[key]

    def _node(
        self, name: str, call: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any,
        layer: nn.Module | None = None,
    ) -> Node:  # fmt: skip
        self._places += 1
        shape, dtype = (tuple(out.shape), out.dtype) if isinstance(out, Tensor) else ((), torch.float64)
        return Node(name, self._places, call, args, kwargs, shape, dtype, layer)

    def _note(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], symbols: Any, out: Any) -> None:
        """Give every tensor of a result its handle: as a view of an argument, or as a tensor of its own."""
        whole = self._record(name, func, symbols[0], symbols[1], out)
        several = not isinstance(out, Tensor)
        sources = [leaf for leaf in args if isinstance(leaf, Tensor)]
        for item, tensor in enumerate(out if isinstance(out, tuple | list) else (out,)):
            if not isinstance(tensor, Tensor) or id(tensor) in self._handles:
                continue
            symbol = self._item(whole, item, tensor) if several else whole
            base = next((source for source in sources if _share(source, tensor)), None)
            if base is None:
                self._adopt(tensor, symbol, outside=False)
                continue
            step = _Step(func, args[1:], kwargs, item if several else None)
            handle = self._handles[id(base)]
            self._handles[id(tensor)] = _Handle(tensor, handle.family, (*handle.steps, step), symbol, handle.family.version)

    def _item(self, whole: Symbol, item: int, tensor: Tensor) -> Symbol:
        if isinstance(whole, Constant):
            return self._constant(tensor.detach())
        return self._record("item", _item_of, (whole, item), {}, tensor)

    def _replay(self, step: _Step, symbol: Symbol) -> Symbol:
        if isinstance(symbol, Constant):
            return self._constant(step(symbol.value))
        with self._quiet():
            out = step(torch.zeros(symbol.shape, dtype=symbol.dtype))
        return self._record("view", step, (symbol,), {}, out)

    def _write(self, tensor: Tensor, symbol: Symbol) -> None:
        handle = self._handles[id(tensor)]
        family = handle.family
        if family.outside and isinstance(symbol, Node):
            raise UntraceableError("it writes what depends on its input into its state")
        if not handle.steps:
            family.symbol = symbol
        else:
            with self._quiet():
                snapshot = family.tensor.detach().clone()
            family.symbol = self._record("write", _write_back(handle.steps), (family.symbol, symbol), {}, snapshot)
        family.version += 1
        handle.symbol, handle.version = symbol, family.version

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


def _item_of(results: Sequence[Any], item: int) -> Any:
    return results[item]


def _share(one: Tensor, other: Tensor) -> bool:
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that an operation writes into: its first argument, or none. Raises `UntraceableError` for another."""
    names = [place for place, argument in enumerate(func._schema.arguments)
             if argument.alias_info is not None and argument.alias_info.is_write]  # fmt: skip
    if not names:
        return None
    if names != [0] or not isinstance(args[0], Tensor):
        raise UntraceableError(f"{func.name().removeprefix('aten::')} writes into an argument")
    return args[0]


def _on_a_copy(func: Any) -> Callable[..., Any]:
    """An operation in place as a function."""

    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        return func(first.clone(), *args, **kwargs)

    call.kept = func  # type: ignore[attr-defined]  # the same operation gives the same node
    return call


def _write_back(steps: tuple[_Step, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """(tensor, new values of a view) → the tensor with these values."""

    def call(tensor: Tensor, values: Tensor) -> Tensor:
        copied = tensor.clone()
        view = copied
        for step in steps:
            view = step(view)
        view.copy_(values)
        return copied

    return call


class Wholes(TorchFunctionMode):
    """Makes one node of each function in `WHOLE`."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WHOLE:
            return self._tape.whole(WHOLE[func], func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
