"""Builds modules on fake tensors, also those whose constructors look at the values of tensors."""

from __future__ import annotations

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils import _pytree

from lipbench import errors, registry
from lipbench.cases import LayerSpec, Spec

LARGEST_ELEMENTS = 2**24
"""elements of a layer's weight up to which a module is built with real tensors where it cannot be built with fake ones"""


def build(spec: Spec, mode: FakeTensorMode) -> nn.Module:
    """The module of a spec on fake tensors of `mode`.

    It is built with fake tensors, which takes no memory, or else with real ones that are made fake afterwards, where they are
    small. Raises what the second attempt raised, or `LipbenchError` where that would be too large.
    """
    try:
        with mode:
            return registry.build(spec)
    except errors.LipbenchError:
        raise
    except Exception as error:  # an external layer may raise anything
        if isinstance(spec, LayerSpec) and spec.method in registry.METHODS:
            raise
        if isinstance(spec, LayerSpec) and (spec.channels * spec.kernel_size) ** 2 > LARGEST_ELEMENTS:
            raise errors.needs_values(spec.method, f"{type(error).__name__} at {spec.channels} channels") from error
    with unset_fake_temporarily():
        module = registry.build(spec)
    return _made_fake(module, mode)


def _made_fake(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The module itself, with fake tensors in place of its parameters, buffers and other tensors among its attributes."""

    def fake(tensor: Tensor) -> Tensor:
        found: Tensor = mode.from_tensor(tensor)  # the same for the same tensor, so that tied weights stay tied
        return found

    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name != "_modules":
                vars(part)[name] = _pytree.tree_map_only(Tensor, fake, value)
    return module
