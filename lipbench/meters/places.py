"""Which part of a module is at work: by hooks in forward passes, by the order of autograd's nodes in backward passes.

A part is a module that computes something itself: it has parameters of its own, parametrizations, or no modules inside. So a
layer is one part, whatever it consists of, and a network is the parts inside its containers.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.nn.utils import parametrize

BETWEEN = ""
"""the place of what runs outside every part, such as operations in the forward pass of a container"""
_ENDLESS = 2**63
"""sequence numbers from this on belong to nodes that accumulate gradients"""


def parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a module with their paths, each once; the module itself, under the path "0", where it is a part."""
    found = list(_inside("", module, set()))
    yield from found if found != [("", module)] else [("0", module)]


def _inside(path: str, module: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    owns = any(one is not None for one in (*module._parameters.values(), *module._buffers.values()))
    children = [(name, one) for name, one in module.named_children() if not isinstance(one, _HOLDERS)]
    if owns or not children or len(children) < len(list(module.children())) or parametrize.is_parametrized(module):
        yield path, module
        return
    for name, child in children:
        yield from _inside(f"{path}.{name}" if path else name, child, seen)


_HOLDERS = (nn.ParameterList, nn.ParameterDict)
"""modules that hold parameters for the module that they are in, and are never called"""


class Places:
    """Knows the part that is at work, within its block. The forward pass of a graph must run within the same block.

    The engine runs nodes in the reverse order of their sequence numbers, and a part's nodes have the numbers that were given
    during its forward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = dict(parts(module))
        self.sizes: dict[str, tuple[str, str]] = {}
        """path → sizes of the first input and of the output without the batch, in the last call; "" for what is no tensor"""
        self._owners: dict[int, str] = {}
        for path, part in self.parts.items():
            for one in (*part.parameters(), *part.buffers()):
                self._owners.setdefault(id(one), path)  # a shared one belongs to the first part that has it
        self._at_work: list[str] = []
        self._begins: list[int] = []
        self._entered: list[str] = []
        """the place from each of `_begins`, a sequence number, on"""
        self._hooks: list[Any] = []

    def __enter__(self) -> Places:
        for path, part in self.parts.items():
            self._hooks.append(part.register_forward_pre_hook(partial(self._enter, path)))
            leave = partial(self._leave, path)
            self._hooks.append(part.register_forward_hook(leave, always_call=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def now(self) -> str:
        """The path of the part that is at work, or `BETWEEN`."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return self.of_node(node)
        return self._at_work[-1] if self._at_work else BETWEEN

    def of_node(self, node: Any) -> str:
        """The path of the part whose forward pass made a node, or that owns the tensor whose gradient it accumulates."""
        number = node._sequence_nr()
        if not 0 <= number < _ENDLESS:
            return self._owners.get(id(getattr(node, "variable", None)), BETWEEN)
        index = bisect.bisect_right(self._begins, number) - 1
        return self._entered[index] if index >= 0 else BETWEEN

    def of_tensor(self, tensor: Tensor) -> str:
        """The path of the part that owns a parameter or buffer, or `BETWEEN`."""
        return self._owners.get(id(tensor), BETWEEN)

    def _enter(self, path: str, part: nn.Module, given: tuple[object, ...]) -> None:
        self._at_work.append(path)
        self._note()

    def _leave(self, path: str, part: nn.Module, given: tuple[object, ...], output: object) -> None:
        self._at_work.pop()
        self.sizes[path] = (_sizes(given[0] if given else None), _sizes(output))
        self._note()

    def _note(self) -> None:
        self._begins.append(_get_sequence_nr())
        self._entered.append(self._at_work[-1] if self._at_work else BETWEEN)


def _sizes(value: object) -> str:
    return " × ".join(map(str, value.shape[1:])) if isinstance(value, Tensor) else ""
