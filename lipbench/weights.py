"""The tensors that a module holds: their dtype, and copies of the module. `state` saves and restores them.

They lie in its parameters and buffers, in its plain attributes, and in the lists, dicts, tuples and plain objects that these
hold. Copies alone follow the closures of functions.
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lipbench import errors

Holder = dict[Any, Any] | list[Any] | collections.deque[Any]
"""a container whose content can be replaced in place; the attributes of an object are a dict"""
REGISTERED = {"_parameters", "_buffers", "_modules"}
"""attributes of a module in which PyTorch keeps what is registered"""
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)


# ----------------------------------------------------------------------------------------------------------------- the walk


def holders(module: nn.Module) -> Iterator[tuple[str, Holder]]:
    """Every container that the module's state lies in, each once, with the name of the place."""
    waiting: list[tuple[str, object]] = [("", module)]
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop()
        if id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict | list | collections.deque):
                yield name, value
            waiting.extend(_inside(name, value))


def _inside(name: str, value: object) -> list[tuple[str, object]]:
    """What a value holds, with the name of each place."""
    if isinstance(value, dict):
        return [(name if key in REGISTERED else f"{name}.{key}".removeprefix("."), one) for key, one in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return [(f"{name}[{place}]", one) for place, one in enumerate(value)]
    if isinstance(value, types.MethodType):
        return [(name, value.__self__)]
    if isinstance(value, functools.partial):
        return [(name, value.args), (name, value.keywords)]
    return [(name, vars(value))] if _has_state(value) else []


def _has_state(value: object) -> bool:
    """Whether the attributes of an object may be state: not those of classes, functions, tensors and Python's own objects."""
    if isinstance(value, Tensor | type | types.FunctionType | types.ModuleType) or not hasattr(value, "__dict__"):
        return False
    return isinstance(value, _NAMESPACES) or type(value).__module__.partition(".")[0] not in sys.stdlib_module_names


def items(holder: Holder) -> list[tuple[Any, Any]]:
    """Keys and values of a container, or places and values."""
    return list(holder.items() if isinstance(holder, dict) else enumerate(holder))


def replaced(value: Any, new: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """A tensor, or value of `kind`, replaced, or a tuple with those in it replaced; anything else is returned itself."""
    if isinstance(value, kind):
        return new(value)
    if not isinstance(value, tuple):
        return value
    found = [replaced(one, new, kind) for one in value]
    if all(one is old for one, old in zip(found, value)):
        return value
    return type(value)._make(found) if hasattr(value, "_make") else tuple(found)


# -------------------------------------------------------------------------------------------------------------------- dtype


def converted(module: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> nn.Module:
    """The same module, with its state changed to a floating dtype, and moved to a device.

    Complex tensors get the corresponding complex dtype; integer and bool ones keep theirs. So do half-precision tensors of a
    module with wider weights, and attributes of another dtype than its weights: the module's author chose these.
    """
    own = floating_dtype(module)
    known: dict[int, tuple[Tensor, Tensor]] = {}  # the old tensors too, so that no other gets the same identity

    def convert(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            leaf = tensor if tensor.is_leaf else tensor.detach()
            known[id(tensor)] = (tensor, leaf.to(device=device, dtype=_target(tensor.dtype, own, dtype)))
        return known[id(tensor)][1]

    module._apply(convert)  # type: ignore[no-untyped-call]  # torch gives it no types
    registered = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}

    def convert_plain(tensor: Tensor) -> Tensor:
        if id(tensor) in registered or not (tensor.dtype in (own, own.to_complex()) or id(tensor) in known):
            return tensor if device is None or id(tensor) in registered else tensor.to(device)
        if isinstance(tensor, nn.Parameter):  # in a module that is hidden in a list, for example
            tensor.data = convert(tensor.data)
            return tensor
        return convert(tensor).requires_grad_(tensor.is_leaf and tensor.requires_grad)

    with torch.no_grad():
        for _, holder in list(holders(module)):
            for key, value in items(holder):
                if (new := replaced(value, convert_plain)) is not value:
                    holder[key] = new
    return module


def floating_dtype(module: nn.Module) -> torch.dtype:
    """The widest floating dtype of the parameters, or else of the buffers; PyTorch's default where there is none.

    A complex tensor counts as its real part does.
    """
    for tensors in (module.parameters(), module.buffers()):
        found = {one.dtype.to_real() for one in tensors if one.is_floating_point() or one.is_complex()}
        if found:
            return max(found, key=lambda dtype: dtype.itemsize)
    return torch.get_default_dtype()


def _target(dtype: torch.dtype, own: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    if not (dtype.is_floating_point or dtype.is_complex) or dtype.to_real().itemsize < min(4, own.itemsize):
        return dtype
    return wanted.to_complex() if dtype.is_complex else wanted


def forget_graphs(module: nn.Module) -> None:
    """Replace tensors that have a graph, such as a weight that a forward pass kept as attribute, by their values."""
    for _, holder in list(holders(module)):
        for key, value in items(holder):
            new = replaced(value, lambda tensor: tensor if tensor.is_leaf else tensor.detach())
            if new is not value:
                holder[key] = new


# ------------------------------------------------------------------------------------------------------------------- copies


class _Detached(TorchFunctionMode):
    """Within the block, `copy.deepcopy` copies the value of a tensor that has a graph, which it would refuse."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        memo[id(tensor)] = found = tensor.detach().clone()
        return found


def copied(module: nn.Module, remake: Callable[[], nn.Module] | None = None) -> nn.Module:
    """A copy that shares no tensor with the module, which stays as it is.

    Where `copy.deepcopy` fails, the copy is made attribute by attribute. An attribute that cannot be copied, such as a lock, is
    then that of a fresh module, which `remake()` makes, and is shared without `remake`. Raises `UnsupportedError` where this
    fails too.
    """
    try:
        found: nn.Module = _deep(module, {})
        return found
    except Exception as error:  # an external module may hold anything
        try:
            return _copied_by_parts(module, remake)
        except Exception as again:
            why = f"{type(error).__name__}: {error}, and by parts {type(again).__name__}: {again}"
            raise errors.cannot_copy(type(module).__name__, why) from error


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy; functions that a module has closed over itself get the copy in its place."""
    cells: list[tuple[types.CellType, object]] = []
    for _, holder in holders(value) if isinstance(value, nn.Module) else ():
        for _, function in items(holder):
            if isinstance(function, types.FunctionType) and function.__closure__ and id(function) not in memo:
                memo[id(function)] = _with_new_cells(function, cells)
    with _Detached():
        found = copy.deepcopy(value, memo)
        for cell, content in cells:
            cell.cell_contents = copy.deepcopy(content, memo)
    return found


def _with_new_cells(function: types.FunctionType, cells: list[tuple[types.CellType, object]]) -> types.FunctionType:
    """The function with empty cells; `cells` gets each with the content that is to be copied into it."""
    new = tuple(types.CellType() for _ in function.__closure__ or ())
    for cell, old in zip(new, function.__closure__ or ()):
        try:
            cells.append((cell, old.cell_contents))
        except ValueError:  # an empty cell
            continue
    found = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, new)
    found.__kwdefaults__ = function.__kwdefaults__
    found.__dict__.update(function.__dict__)
    return found


def _copied_by_parts(module: nn.Module, remake: Callable[[], nn.Module] | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        fresh = {} if remake is None else dict(remake().named_modules())
    memo: dict[int, Any] = {}
    pairs = []
    for name, part in module.named_modules():
        twin = fresh.get(name)
        if type(twin) is not type(part):
            twin = part.__new__(type(part))
        memo[id(part)] = twin
        pairs.append((part, twin))
    for part, twin in pairs:
        before, own = dict(vars(twin)), {}
        for key, value in vars(part).items():
            attempt = dict(memo)
            try:
                own[key] = _deep(value, attempt)
                memo.update(attempt)
            except Exception:  # an external module may hold anything
                own[key] = before.get(key, value)
        vars(twin).clear()
        vars(twin).update(own)
    found: nn.Module = memo[id(module)]
    return found
