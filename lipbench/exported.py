"""A workload whose inference runs the exported form of its module, in which effective weights are plain numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lipbench import errors
from lipbench.layers.base import TwoHalves
from lipbench.weights import copied
from lipbench.workload import Workload

Export = Callable[[nn.Module], nn.Module]
"""trained module in evaluation mode, a copy → its exported form"""


class ExportedWorkload(Workload):
    """A workload for inference alone, with the exported form of the given workload's module; the data are shared.

    The given workload's module stays as it is, and `trained` is that workload. Raises `UnsupportedError` for a module without
    an exported form.
    """

    inference_only = True

    def __init__(self, workload: Workload, own: Export | None = None) -> None:
        vars(self).update(vars(workload))
        self.trained = workload
        like = workload.x
        self.module = exported(workload.module, own).to(like.device, like.dtype).eval()
        self.optimizer = torch.optim.SGD([like], lr=0.0)  # holds no state; a step is never taken

    def restore(self) -> None:
        """Drop results; inference changes no weights."""
        self._forget()

    def difference(self) -> float:
        """Norm of the difference between the exported and the trained module's output in evaluation mode, relative to it."""
        outputs = []
        for one in (self.trained, self):
            one.prepare_inference()
            outputs.append(one.inference().detach().double())
            one.prepare_inference()
        return float(torch.linalg.vector_norm(outputs[1] - outputs[0]) / torch.linalg.vector_norm(outputs[0]))


def exported(module: nn.Module, own: Export | None = None) -> nn.Module:
    """The exported form of a module, made from a copy in evaluation mode.

    It is the result of `own`, the function `export` of an adapter's file. Otherwise every part with a method `vanilla_export`
    (deel-torchlip) is replaced by that method's result, and in all others the parametrizations of `torch.nn.utils` are removed,
    so that the effective weights remain. Raises `UnsupportedError` where nothing of this applies, and the errors of the module.
    """
    found = copied(module).eval()
    with torch.no_grad():
        if own is not None:
            made = own(found)
        elif any(isinstance(part, TwoHalves) for part in found.modules()):
            raise errors.cache_is_export()
        else:
            made, is_changed = _replaced(found)
            if not is_changed:
                raise errors.no_export()
    if not isinstance(made, nn.Module):
        raise errors.export_is_no_module(type(made).__name__)
    return made


def _replaced(module: nn.Module) -> tuple[nn.Module, bool]:
    """The module with its parts in their exported forms, and whether any part has one."""
    if callable(export := getattr(module, "vanilla_export", None)):
        return export(), True
    is_changed = _remove_parametrizations(module)
    for name, child in list(module.named_children()):
        made, child_is_changed = _replaced(child) if not isinstance(child, parametrize.ParametrizationList) else (child, False)
        if made is not child:
            setattr(module, name, made)
        is_changed |= child_is_changed
    return module, is_changed


def _remove_parametrizations(module: nn.Module) -> bool:
    """Replace parametrized tensors of a module, but not of its children, by their values; whether there were any."""
    names = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]  # a ModuleDict
    if names:  # its class, made by PyTorch for its properties, is also that of the module it is a copy of
        made = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(type(module).__name__, type(module).__bases__, made)
    for name in names:
        parametrize.remove_parametrizations(module, name)
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm | WeightNorm)]
    for hook in hooks:
        remove = remove_spectral_norm if isinstance(hook, SpectralNorm) else remove_weight_norm
        remove(module, hook.name)
    return bool(names or hooks)
