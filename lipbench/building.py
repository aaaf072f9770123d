"""Builds external layers and networks: calls them, and checks that the result is a module that maps one tensor.

Also the shape of the input of any layer or network, and an input that a layer may overwrite.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lipbench import calling, errors, origin
from lipbench.calling import Call
from lipbench.cases import COLOURS, ExternalNetworkSpec, Spec
from lipbench.parameters import CLASSES, IMAGE, IN, KERNEL, OUT

_SHAPE = "input_shape"
"""attribute of a module: shape of its input without the batch, where it is not (channels, image_size, image_size)"""


def sizes(spec: Spec) -> dict[str, int]:
    """Meaning of a parameter → the size that a parameter of this meaning gets."""
    if isinstance(spec, ExternalNetworkSpec):
        return {IN: COLOURS, IMAGE: spec.image_size, CLASSES: spec.classes}
    return {IN: spec.channels, OUT: spec.channels, IMAGE: spec.image_size, KERNEL: spec.kernel_size}


def build(call: Call, sizes: dict[str, int]) -> nn.Module:
    """The module that an external callable returns, with all its parameters.

    Raises `LipbenchError` for what is not a module of one tensor, and for one that needs a GPU where there is none; any other
    error of the callable is passed on.
    """
    try:
        module = call.make(sizes)
        if not isinstance(module, nn.Module):
            raise errors.not_a_module(call.name, type(module).__name__)
        _check_forward(call, module)
        inputs, image = call.inputs(sizes), sizes[IMAGE]
        if call.counts_features or inputs != sizes[IN]:
            vars(module).setdefault(_SHAPE, (inputs,) if call.counts_features else (inputs, image, image))
        if any(is_lazy(one) for one in (*module.parameters(), *module.buffers())):
            with torch.no_grad():
                module(torch.randn(2, *_shape(module, (inputs, image, image))))
    except errors.LipbenchError:
        raise
    except Exception as error:
        if asks_for_cuda(error) and not torch.cuda.is_available():
            raise errors.needs_cuda(call.name, origin.described(error)) from error
        raise
    return module


def _check_forward(call: Call, module: nn.Module) -> None:
    """Raises `LipbenchError` for a module whose forward pass does not take one tensor alone."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # compiled code, which says nothing
        return
    try:
        signature.bind(None)
    except TypeError as error:
        further = list(signature.parameters.values())[1:]
        required = [
            one for one in further if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        values = ", ".join("1.0" if one.kind is one.POSITIONAL_ONLY else f"{one.name}=1.0" for one in required)
        forward = f"self.layer({', '.join(filter(None, ('x' if signature.parameters else '', values)))})"
        what = "must take one tensor alone"
        raise errors.wrapper_needed(call.name, what, str(error), forward, call.kind, call.adapter(forward)) from error


def output_of(spec: Spec, module: nn.Module, x: Tensor) -> Tensor:
    """The module's output. Raises `LipbenchError` for an output that is not one tensor, and for a module that needs a GPU where
    the input is on a CPU; any other error of the module is passed on."""
    try:
        output: Any = module(x)
    except Exception as error:
        if asks_for_cuda(error) and x.device.type == "cpu":
            raise errors.needs_cuda(spec.method, origin.described(error)) from error
        raise
    if not isinstance(output, Tensor):
        raise _no_tensor(spec, output)
    return output


def _no_tensor(spec: Spec, output: object) -> errors.LipbenchError:
    call = (calling.network if isinstance(spec, ExternalNetworkSpec) else calling.layer)(spec.method)
    got = f"an object of type {type(output).__name__}"
    forward = "self.layer(x)"
    if isinstance(output, tuple | list):
        place = next((place for place, one in enumerate(output) if isinstance(one, Tensor)), 0)
        got, forward = f"{got} of {len(output)}", f"self.layer(x)[{place}]"
    elif isinstance(output, dict):
        name = next((name for name, one in output.items() if isinstance(one, Tensor)), None)
        forward = f"self.layer(x)[{name!r}]"
    elif name := next((name for name, one in getattr(output, "__dict__", {}).items() if isinstance(one, Tensor)), ""):
        forward = f"self.layer(x).{name}"
    return errors.wrapper_needed(
        call.name, "must return one tensor", f"which returns {got}", forward, call.kind, call.adapter(forward)
    )


def asks_for_cuda(error: BaseException) -> bool:
    """Whether an error says that something is not on a GPU: by its text, or by the line of a failed assertion."""
    text = str(error).lower()
    if isinstance(error, AssertionError):
        text += origin.source_line(error).lower()
    return any(word in text for word in ("cuda", "nvidia driver")) and "out of memory" not in text


# ------------------------------------------------------------------------------------------------------------------- inputs


def input_shape(spec: Spec, module: nn.Module) -> tuple[int, ...]:
    """Shape of the input without the batch: the module's attribute `input_shape` if that is one to three numbers, else
    (channels, image_size, image_size)."""
    return _shape(module, (spec.input_channels, spec.image_size, spec.image_size))


def _shape(module: nn.Module, usual: tuple[int, ...]) -> tuple[int, ...]:
    own = getattr(module, _SHAPE, None)
    is_shape = isinstance(own, tuple | list) and 0 < len(own) < 4 and all(isinstance(size, int) and size > 0 for size in own)
    return tuple(own) if is_shape and own is not None else usual


def let_it_overwrite(module: nn.Module) -> None:
    """From now on, the module gets a copy of its input: for one that changes it in place, where the input is still needed."""
    if not overwrites(module):
        module.register_forward_pre_hook(_copied)


def overwrites(module: nn.Module) -> bool:
    """Whether `let_it_overwrite` was called for the module, or for the one that it is a copy of."""
    return _copied in module._forward_pre_hooks.values()


def _copied(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (given[0].clone(), *given[1:])
