"""The state of a module at one moment, saved and restored: values of tensors, and which objects the module holds."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.weights import REGISTERED, Holder, holders, items, replaced


class _Saved:
    """A tensor and its value, which is kept in host memory, so that it does not count as device memory.

    Parameters are kept alive, since an optimizer holds them. Other tensors are not: a layer that replaces one frees it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.is_parameter = isinstance(tensor, nn.Parameter)
        self.device, self.requires_grad = tensor.device, tensor.is_leaf and tensor.requires_grad
        self.value = tensor.detach() if tensor.is_meta else tensor.detach().to("cpu", copy=True)
        self._keep(tensor)

    def _keep(self, tensor: Tensor) -> None:
        self.strong = tensor if self.is_parameter else None
        self.weak = weakref.ref(tensor)

    def is_changed(self) -> bool:
        tensor = self.weak()
        if tensor is None or tensor.shape != self.value.shape or tensor.dtype != self.value.dtype:
            return True
        return not torch.equal(tensor.detach().cpu(), self.value)

    def restored(self) -> Tensor:
        """The tensor with its value; another tensor where it is gone, or where it was made in inference mode."""
        tensor = self.weak()
        if tensor is None or tensor.is_inference():
            tensor = self.value.to(self.device, copy=True)
        elif tensor.shape == self.value.shape and tensor.dtype == self.value.dtype and tensor.device == self.device:
            self._write(tensor)
        else:
            tensor.data = self.value.to(self.device, copy=True)
        if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        self._keep(tensor)
        return tensor

    def _write(self, tensor: Tensor) -> None:
        try:
            tensor.copy_(self.value)
        except RuntimeError:  # several elements in one place of memory
            tensor.data = self.value.to(self.device, copy=True)


class State:
    """What a module holds at one moment: the values of its tensors, and which objects it holds."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors: dict[int, _Saved] = {}
        self._holders = [(name, holder, self._note(holder)) for name, holder in holders(module)]
        for tensor in (*module.parameters(), *module.buffers()):  # those of scripted modules lie in no dict
            self._save(tensor)
        values = [one for _, holder, _ in self._holders for _, one in items(holder)]
        self._generators = [(one, one.get_state()) for one in values if isinstance(one, torch.Generator)]
        self._saved = list(self._tensors.values())

    def _note(self, holder: Holder) -> dict[Any, Any]:
        return {key: replaced(value, self._save) for key, value in _without_mode(holder).items()}

    def _save(self, tensor: Tensor) -> Any:
        if nn.parameter.is_lazy(tensor):
            return tensor
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = _Saved(tensor)
        return self._tensors[id(tensor)]

    def is_changed(self) -> bool:
        """Whether a tensor has another value now, or a container other content."""
        if any(saved.is_changed() for saved in self._saved):
            return True
        return any(not _is_same(_without_mode(holder), before) for _, holder, before in self._holders)

    @torch.no_grad()
    def restore(self, *, keep_new_weights: bool = False) -> tuple[str, ...]:
        """Bring back values and objects, in place where the objects are still there, and remove what has appeared since.

        `keep_new_weights` keeps parameters and modules that were made since, as a first forward pass may do. The mode, training
        or evaluation, stays. Returns the places that could not be restored, each with the reason.
        """
        failed = []
        present: dict[_Saved, Tensor] = {}
        for saved in self._saved:
            try:
                present[saved] = saved.restored()
            except Exception as error:  # a tensor of an unusual kind
                failed.append(f"a tensor {tuple(saved.value.shape)} ({_line(error)})")
        for name, holder, before in self._holders:
            try:
                _refill(holder, _wanted(holder, before, present, keep_new_weights))
            except Exception as error:  # a container that an external module protects
                failed.append(f"{name or 'the module'} ({_line(error)})")
        for generator, state in self._generators:
            generator.set_state(state)
        return tuple(failed)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _without_mode(holder: Holder) -> dict[Any, Any]:
    return {key: value for key, value in items(holder) if key != "training"}


def _contents(holder: Holder) -> dict[Any, Any]:
    return dict(items(holder))


def _is_same(now: Any, before: Any) -> bool:
    """Whether a container or tuple holds the same objects as before, where `_Saved` stands for its tensor."""
    if isinstance(before, _Saved):
        return isinstance(now, Tensor) and now is before.weak()
    if isinstance(before, dict) and isinstance(now, dict):
        return now.keys() == before.keys() and all(now[key] is one or _is_same(now[key], one) for key, one in before.items())
    if isinstance(before, tuple) and isinstance(now, tuple):
        return len(now) == len(before) and all(a is b or _is_same(a, b) for a, b in zip(now, before))
    return now is before


def _wanted(holder: Holder, before: dict[Any, Any], present: dict[_Saved, Tensor], keep_new_weights: bool) -> dict[Any, Any]:
    """The content that a container shall have."""
    wanted = {key: replaced(value, present.__getitem__, _Saved) for key, value in before.items()}
    if not isinstance(holder, dict):
        return wanted
    if keep_new_weights:
        new = {key: one for key, one in holder.items() if isinstance(one, nn.Parameter | nn.Module)}
        wanted |= {key: one for key, one in new.items() if wanted.get(key) is None}
    if "training" in holder:
        wanted["training"] = holder["training"]
    if keep_new_weights and holder.keys() >= REGISTERED:  # the attributes of a module, some of which are parameters now
        made = {*holder["_parameters"], *holder["_modules"]} - holder.keys()
        wanted = {key: one for key, one in wanted.items() if key not in made}
    return wanted


def _refill(holder: Holder, wanted: dict[Any, Any]) -> None:
    if _is_same(_contents(holder), wanted):
        return
    holder.clear()
    if isinstance(holder, dict):
        holder.update(wanted)
    else:
        holder.extend(wanted.values())
