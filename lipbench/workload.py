"""A built case, ready to run: a module with fixed weights, input and cotangent, and a callable for each phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench import building
from lipbench.cases import Case
from lipbench.layers.base import TwoHalves

NOISE = 0.1
"""size of the noise added to the initial weights, relative to their root mean square"""
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

    def __init__(self, case: Case, module: nn.Module, x: Tensor, cotangent: Tensor) -> None:
        self.case = case
        self.module = module
        for half in self.halves:
            half.precision = case.precision
        self.x = x
        """input (b, channels, s, s), or (b, features) and so on, which requires a gradient"""
        self._images = x.detach()
        self.cotangent = cotangent
        """gradient of the output, from which the backward pass starts"""
        # In a group, because an optimizer takes an empty group, but not an empty list.
        self.optimizer = torch.optim.SGD([{"params": [*module.parameters()]}], lr=LEARNING_RATE, momentum=MOMENTUM)
        self.output: Tensor | None = None
        self.effective: list[tuple[Tensor, ...]] = []
        # In host memory, so that it does not count as device memory.
        self._state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors().items()}

    @classmethod
    def build(cls, case: Case, module: nn.Module) -> Workload:
        """Move a freshly built module to the case's dtype and device, add noise to its initial weights, and make its data.

        All random numbers come from the case's seed and are drawn on the CPU, so that they are the same on every device.
        A module that changes its input in place gets a copy of it from then on. Raises `LipbenchError` for a module whose
        output is not one tensor, or that needs a GPU where the case is on a CPU.
        """
        generator = torch.Generator().manual_seed(case.seed)
        _randomise(module, generator)
        dtype: torch.dtype = getattr(torch, case.dtype)
        module = module.to(device=case.device, dtype=dtype)
        size = (case.batch_size, *building.input_shape(case.spec, module))
        x = torch.randn(size, generator=generator, dtype=dtype).to(case.device).requires_grad_()
        shape = _output_shape(case, module.eval(), x)
        cotangent = torch.randn(case.batch_size, *shape, generator=generator, dtype=dtype).to(case.device)
        return cls(case, module, x, cotangent)

    @classmethod
    def imagine(cls, case: Case, make: Callable[[], nn.Module]) -> Workload:
        """A workload of fake tensors, for use within a `FakeTensorMode`: shapes without values, on the CPU.

        `make` builds the module here, in the case's dtype, since a fake module cannot be moved to another dtype.
        """
        dtype, usual = getattr(torch, case.dtype), torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            module = make()
        finally:
            torch.set_default_dtype(usual)
        x = torch.empty((case.batch_size, *building.input_shape(case.spec, module)), dtype=dtype, requires_grad=True)
        shape = _output_shape(case, module.train(), x)  # in training mode, where power iterations take one step
        return cls(case, module, x, torch.empty(case.batch_size, *shape, dtype=dtype))

    # ---------------------------------------------------------------------------------------------------------- the stages

    def forward(self) -> Tensor:
        """Forward pass in training mode; the graph is kept."""
        try:
            output: Tensor = self.module(self.x)
        except RuntimeError as error:
            if _IN_PLACE not in str(error) or building.overwrites(self.module):
                raise
            building.let_it_overwrite(self.module)  # a module that changes its input in training mode alone
            output = self.module(self.x)
        self.output = output
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
        """The parameter halves alone; the graph is kept. Does nothing for a module without halves."""
        self.effective = parameter_halves(self.halves)

    def inference(self) -> Tensor:
        """Forward pass in evaluation mode, without a graph."""
        with torch.inference_mode():
            output: Tensor = self.module(self._images)
        self.output = output
        return output

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
        """Reset parameters and buffers to their values when the workload was built."""
        self._forget()
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(self._state[name])

    def groups(self) -> list[Group]:
        """The groups of phases, in order; call `restore()` before each group. A module without halves has two phases fewer."""
        groups = [
            Group("training", {"forward": self.forward, "backward": self.backward}, self.prepare_training),
            Group("step", {"step": self.step}, self.prepare_training),
        ]
        if self.has_halves:
            groups.append(Group("parametrize", {"parametrize": self.parametrize}, self.prepare_training))
        groups.append(Group("inference", {"inference": self.inference}, self.prepare_inference, loop=True))
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

    def other_batch(self) -> Tensor:
        """An input of another batch size, b // 2, or 2 if b is 1, for fits of a line in the batch size."""
        size = len(self.x)
        other = self.x[: size // 2] if size > 1 else torch.cat((self.x, self.x))
        return other.detach().requires_grad_()

    def _forget(self) -> None:
        self.output = None
        self.effective = []
        self.x.grad = None
        self.optimizer.zero_grad(set_to_none=True)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, with those that are not in the state dict."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


def parameter_halves(halves: Sequence[TwoHalves]) -> list[tuple[Tensor, ...]]:
    """Compute the effective parameters of each half."""
    return [half.transform_parameters(image_size(half)) for half in halves]


def image_size(half: TwoHalves) -> int:
    """Image size that a half is made for; 1 for a fully connected layer, which has none."""
    return getattr(half, "image_size", 1)


@torch.no_grad()
def _output_shape(case: Case, module: nn.Module, x: Tensor) -> torch.Size:
    """Shape of the module's output for one of the inputs, without the batch; notices a module that changes its input."""
    one = x[:1].clone()
    before = one._version
    shape = building.output_of(case.spec, module, one).shape[1:]
    if one._version != before:
        building.let_it_overwrite(module)
    return shape


@torch.no_grad()
def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Add noise to every parameter, since many layers start as the identity and a trained layer never is."""
    for parameter in module.parameters():
        scale = parameter.square().mean().sqrt() if parameter.any() else torch.ones(())
        parameter.add_(NOISE * scale * torch.randn(parameter.shape, generator=generator))
    for half in module.modules():
        if isinstance(half, TwoHalves):
            half.refresh()  # bring power iterations to convergence on the new weights
