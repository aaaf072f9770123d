"""A built case, ready to run: a module with fixed weights, input and cotangent, and a callable for each phase."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipbench import building, errors, training
from lipbench.cases import AUTOCAST, Case
from lipbench.external import is_external
from lipbench.layers.base import TwoHalves
from lipbench.state import State
from lipbench.weights import converted

Weights = Literal["initial", "trained", "noise"]
"""initial: the module's own initialisation · trained: after a few SGD steps from there · noise: with noise added to it"""
LEARNING_RATE = 1e-8
"""small enough that weights stay finite after thousands of updates with the same cotangent"""
MOMENTUM = 0.9
_IN_PLACE = "leaf Variable that requires grad is being used in an in-place operation"


@dataclass(frozen=True)
class Group:
    """Stages that are timed together. An iteration is `prepare()`, then each stage in order; each is timed separately."""

    name: str
    """a key of `quantities.GROUPS`"""
    stages: dict[str, Callable[[], object]]
    prepare: Callable[[], object]
    loop: bool = False
    """whether calls of less than a millisecond may be repeated within a sample"""


class Workload:
    """A module that is ready to be measured; `Workload.build` makes it.

    Results are kept until the next `prepare_*()`, so that freeing them is not timed.
    """

    inference_only = False
    """whether inference is the only phase"""

    def __init__(self, case: Case, module: nn.Module, x: Tensor, cotangent: Tensor) -> None:
        self.case = case
        self.module = module
        set_precision(self.halves, case.precision)
        self._set_conditions()
        self.autocast = autocast(case.precision, x.device.type)
        """context of every forward pass"""
        self.x = x
        """input (b, channels, s, s), or (b, features) and so on, which requires a gradient"""
        self._images = x.detach()
        self.cotangent = cotangent
        """gradient of the output, from which the backward pass starts"""
        self.weights: Weights = "initial"
        self.remarks: dict[str, Literal["weights", "state"]] = {}
        """what a reader must know of the weights or of the module's own state, one line each, with the topic"""
        self.output: Tensor | None = None
        self.effective: list[tuple[Tensor, ...]] = []
        self._begin()

    def _set_conditions(self) -> None:
        """Tell the halves their device, and whether to compute them again; `UnsupportedError` for a module that has none."""
        if self.case.recompute and not self.halves:
            raise errors.no_halves_to_recompute(self.case.spec.method)
        for half in self.halves:
            half.recompute, half.device_type = self.case.recompute, self.case.device

    def _begin(self) -> None:
        """Make the optimizer and save the state, for the module as it is."""
        parameters = [one for one in self.module.parameters() if one.is_floating_point() or one.is_complex()]
        # A group, since the optimizer refuses an empty list.
        self.optimizer = torch.optim.SGD([{"params": parameters}], lr=LEARNING_RATE, momentum=MOMENTUM)
        self._state = State(self.module)

    @classmethod
    def build(cls, case: Case, module: nn.Module, weights: Weights | None = None) -> Workload:
        """Move a freshly built module to the case's dtype and device, choose its weights, and make its data.

        Without `weights`, those of a method get noise, and those of an external layer a few SGD steps: noise may be what its
        weights could never be trained to, such as a mask with other values than 0 and 1. All random numbers come from the
        case's seed and are drawn on the CPU, so that they are the same on every device. A module that changes its input in
        place gets a copy of it from then on. Raises `LipbenchError` for a module whose output is not one tensor, or that needs
        a GPU where the case is on a CPU.
        """
        chosen = weights or usual_weights(case)
        generator = torch.Generator().manual_seed(case.seed)
        if chosen == "noise":
            training.add_noise(module, generator)
        dtype: torch.dtype = getattr(torch, case.dtype)
        module = converted(module, dtype, case.device)
        size = (case.batch_size, *building.input_shape(case.spec, module))
        x = torch.randn(size, generator=generator, dtype=dtype).to(case.device).requires_grad_()
        output = training.first_output(module.eval(), lambda: _first_output(case, module, x))
        cotangent = torch.randn(case.batch_size, *output.shape[1:], generator=generator, dtype=dtype)
        workload = cls(case, module, x, cotangent.to(case.device, output.dtype))
        workload.weights = "initial" if chosen == "trained" else chosen
        if chosen == "trained":
            workload.leave_initial()
        return workload

    def leave_initial(self) -> None:
        """Train the initial weights for a few SGD steps, so that the module is no longer the map that it started as.

        Where that fails, the weights stay the initial ones, and a remark says so.
        """
        reason = training.leave_initial(self.module, self.x, torch.Generator().manual_seed(self.case.seed + 1))
        if reason:
            self.remarks[f"{reason}: the weights are those of the initial map"] = "weights"
        else:
            self.weights = "trained"
        self._begin()

    @classmethod
    def imagine(cls, case: Case, make: Callable[[], nn.Module]) -> Workload:
        """A workload of tensors without values: of fake ones within a `FakeTensorMode`, or else of the default device "meta".

        `make` builds the module here, in the case's dtype, since a fake module cannot be moved to another dtype.
        """
        dtype, usual = getattr(torch, case.dtype), torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            module = make()
        finally:
            torch.set_default_dtype(usual)
        x = torch.empty((case.batch_size, *building.input_shape(case.spec, module)), dtype=dtype, requires_grad=True)
        output = _first_output(case, module.train(), x)  # in training mode, where power iterations take one step
        return cls(case, module, x, torch.empty(case.batch_size, *output.shape[1:], dtype=output.dtype))

    def imagine_batch(self, batch_size: int) -> Workload:
        """This workload of tensors without values with another batch size: the same module and optimizer, other data.

        It must not be used together with this one. For use within the mode or on the default device of this one.
        """
        self._forget()
        other = copy.copy(self)
        other.case = replace(self.case, batch_size=batch_size)
        other.x = torch.empty((batch_size, *self.x.shape[1:]), dtype=self.x.dtype, requires_grad=True)
        other._images = other.x.detach()
        other.cotangent = torch.empty((batch_size, *self.cotangent.shape[1:]), dtype=self.cotangent.dtype)
        return other

    # ---------------------------------------------------------------------------------------------------------- the stages

    def forward(self) -> Tensor:
        """Forward pass in training mode; the graph is kept."""
        try:
            self.output = self.apply(self.x)
        except RuntimeError as error:
            if _IN_PLACE not in str(error) or building.overwrites(self.module):
                raise
            building.let_it_overwrite(self.module)  # a module that changes its input in training mode alone
            self.output = self.apply(self.x)
        return self.output

    def apply(self, x: Tensor) -> Tensor:
        """The module's output for any input, in the mode that it is in and in the case's precision."""
        with self.autocast:
            output: Tensor = self.module(x)
        return output

    def backward(self) -> None:
        """Backward pass from the output of `forward()`: gradients of input and parameters."""
        assert self.output is not None
        self.output.backward(self.cotangent)  # type: ignore[no-untyped-call]  # torch gives it no types

    def step(self) -> None:
        """Forward pass, backward pass and SGD update."""
        self.forward()
        self.backward()
        self.optimizer.step()

    def parametrize(self) -> None:
        """The parameter halves alone, without autocast; the graph is kept. Does nothing for a module without halves."""
        self.effective = parameter_halves(self.halves)

    def inference(self) -> Tensor:
        """Forward pass in evaluation mode, without a graph."""
        with torch.inference_mode():
            self.output = self.apply(self._images)
        return self.output

    def first_inference(self) -> Tensor:
        """The same, after `prepare_first_inference()` has emptied the caches."""
        return self.inference()

    # ----------------------------------------------------------------------------------------------------- the preparations

    def prepare_training(self) -> None:
        """Set training mode; drop results and gradients."""
        self._forget()
        self.module.train()

    def prepare_inference(self) -> None:
        """Set evaluation mode; drop results and gradients; keep caches."""
        self._forget()
        self.module.eval()

    def prepare_first_inference(self) -> None:
        """Set evaluation mode; drop results and gradients; empty every cache."""
        self.prepare_inference()
        for half in self.halves:
            half.clear_cache()

    def restore(self) -> None:
        """Reset the module's state to that when the workload was built; remarks name what cannot be reset."""
        self._forget()
        for place in self._state.restore():
            self.remarks[f"the layer's own state could not be reset between phases: {place}"] = "state"

    def groups(self) -> list[Group]:
        """The groups of phases, in order; call `restore()` before each group. A module without halves has two phases fewer."""
        inference = Group("inference", {"inference": self.inference}, self.prepare_inference, loop=True)
        if self.inference_only:
            return [inference]
        groups = [
            Group("training", {"forward": self.forward, "backward": self.backward}, self.prepare_training),
            Group("step", {"step": self.step}, self.prepare_training),
        ]
        if self.has_halves:
            groups.append(Group("parametrize", {"parametrize": self.parametrize}, self.prepare_training))
        groups.append(inference)
        if self.has_halves:
            groups.append(Group("first_inference", {"first_inference": self.first_inference}, self.prepare_first_inference))
        return groups

    def results(self) -> dict[str, Tensor]:
        """Results of the stages since the last `prepare_*()`: output, gradients and effective parameters, by name."""
        mode = "training" if self.module.training else "evaluation"
        found = {f"output in {mode}": self.output, "gradient of the input": self.x.grad}
        found |= {f"gradient of {name}": parameter.grad for name, parameter in self.module.named_parameters()}
        effective = [tensor for half in self.effective for tensor in half]
        found |= {f"effective parameter {place}": tensor for place, tensor in enumerate(effective)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    # ------------------------------------------------------------------------------------------------------------ the parts

    @property
    def halves(self) -> list[TwoHalves]:
        """The layers in the module that have a parameter half and a cache."""
        return [module for module in self.module.modules() if isinstance(module, TwoHalves)]

    @property
    def has_halves(self) -> bool:
        """Whether the module has the phases `parametrize` and `first_inference`."""
        return bool(self.halves)

    def computes_in_half(self) -> bool:
        """Whether an operation of the forward pass, in training or in evaluation mode, gives numbers of 16 bits; True where an
        error hides the answer."""
        seen = _HalfPrecision()  # type: ignore[no-untyped-call]  # nor this
        try:
            with seen:
                if not self.inference_only:
                    self.prepare_training()
                    self.forward()
                self.prepare_inference()
                self.inference()
        except Exception:  # an external module may raise anything; then the failed phases say so
            return True
        finally:
            self.restore()
        return seen.found

    def other_batch(self) -> Tensor:
        """An input of another batch size, b // 2, or 2 if b is 1, for fits of a line in the batch size."""
        size = len(self.x)
        # A copy: of a view, the whole storage would count as saved.
        other = self.x.detach()[: size // 2].clone() if size > 1 else torch.cat((self.x, self.x)).detach()
        return other.requires_grad_()

    def _forget(self) -> None:
        self.output = None
        self.effective = []
        self.x.grad = None
        self.optimizer.zero_grad(set_to_none=True)


def usual_weights(case: Case) -> Weights:
    """The weights that a case is measured with."""
    return "trained" if is_external(case.spec.method) else "noise"


class _HalfPrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Notes whether an operation gives a tensor of 16-bit floats."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        dtypes = {one.dtype for one in tree_leaves(result) if isinstance(one, Tensor)}
        self.found |= not dtypes.isdisjoint((torch.bfloat16, torch.float16))
        return result


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """The context of a forward pass on a device: autocast for `bf16` and `fp16`, none for other precisions; reusable."""
    if precision not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device, getattr(torch, AUTOCAST[precision]))


def set_precision(halves: Iterable[TwoHalves], precision: str) -> None:
    """Set the precision of kernels' products; under autocast they stay ieee."""
    for half in halves:
        half.precision = "ieee" if precision in AUTOCAST else precision


def parameter_halves(halves: Sequence[TwoHalves]) -> list[tuple[Tensor, ...]]:
    """Compute the effective parameters of each half."""
    return [half.parameter_half(image_size(half)) for half in halves]


def image_size(half: TwoHalves) -> int:
    """Image size that a half is made for; 1 for a fully connected layer, which has none."""
    return getattr(half, "image_size", 1)


@torch.no_grad()
def _first_output(case: Case, module: nn.Module, x: Tensor) -> Tensor:
    """The module's output for one of the inputs; notices a module that changes its input."""
    one = x[:1].clone()
    before = one._version
    with autocast(case.precision, x.device.type):
        output = building.output_of(case.spec, module, one)
    if one._version != before:
        building.let_it_overwrite(module)
    return output
