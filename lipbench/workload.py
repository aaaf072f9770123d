"""What a case does once it is built: a module with fixed weights, input and cotangent, and a callable for each phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.cases import Case
from lipbench.layers.base import TwoHalves

NOISE = 0.1
"""by which weights are moved from their initial values, relative to their root mean square"""
LEARNING_RATE = 1e-8
"""so small that thousands of updates, all along the same cotangent, leave the weights finite"""
MOMENTUM = 0.9


@dataclass(frozen=True)
class Group:
    """Stages that are timed together. One iteration is `prepare()`, then each stage in order, timed by itself."""

    name: str
    """of `quantities.GROUPS`"""
    stages: dict[str, Callable[[], object]]
    prepare: Callable[[], object]
    loop: bool = False
    """calls of under a millisecond may be repeated within a sample"""


class Workload:
    """A module, ready to be measured; made by `Workload.build`.

    Results are kept until the next `prepare_*()`, so that freeing them is in nobody's time.
    """

    def __init__(self, case: Case, module: nn.Module, x: Tensor, cotangent: Tensor) -> None:
        self.case = case
        self.module = module
        for half in self.halves:
            half.precision = case.precision
        self.x = x
        """(b, channels, s, s), requires a gradient"""
        self._images = x.detach()
        self.cotangent = cotangent
        """of the output: what the backward pass starts from"""
        self.optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        self.output: Tensor | None = None
        self.effective: list[tuple[Tensor, ...]] = []
        # In host memory, so that it does not count as memory of the device.
        self._state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors().items()}

    @classmethod
    def build(cls, case: Case, module: nn.Module) -> Workload:
        """Move a freshly built module to the case's dtype and device, its weights away from where they start; make its data.

        All random numbers come from the case's seed and are drawn on the CPU, so that every device gets the same.
        """
        generator = torch.Generator().manual_seed(case.seed)
        _randomise(module, generator)
        dtype: torch.dtype = getattr(torch, case.dtype)
        module = module.to(device=case.device, dtype=dtype)
        x = torch.randn(_input_shape(case), generator=generator, dtype=dtype).to(case.device).requires_grad_()
        with torch.no_grad():
            shape = module.eval()(x[:1]).shape[1:]
        cotangent = torch.randn(case.batch_size, *shape, generator=generator, dtype=dtype).to(case.device)
        return cls(case, module, x, cotangent)

    @classmethod
    def imagine(cls, case: Case, make: Callable[[], nn.Module]) -> Workload:
        """The same of fake tensors, for use while a `FakeTensorMode` is on: all shapes, no values, on the CPU.

        `make` builds the module here, since a fake one cannot be moved to another dtype: it is born in the case's.
        """
        dtype, usual = getattr(torch, case.dtype), torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            module = make()
        finally:
            torch.set_default_dtype(usual)
        x = torch.empty(_input_shape(case), dtype=dtype, requires_grad=True)
        with torch.no_grad():
            shape = module.train()(x[:1]).shape[1:]  # in training mode, where an iteration takes one step
        return cls(case, module, x, torch.empty(case.batch_size, *shape, dtype=dtype))

    # ---------------------------------------------------------------------------------------------------------- the stages

    def forward(self) -> Tensor:
        """Training mode, graph kept."""
        output: Tensor = self.module(self.x)
        self.output = output
        return output

    def backward(self) -> None:
        """Gradients of input and parameters, from the output of `forward()`."""
        assert self.output is not None
        self.output.backward(self.cotangent)  # type: ignore[no-untyped-call]  # torch gives it no types

    def step(self) -> None:
        """Forward, backward and the SGD update."""
        self.forward()
        self.backward()
        self.optimizer.step()

    def parametrize(self) -> None:
        """The parameter halves alone, graph kept; none for a module that has no halves."""
        self.effective = parameter_halves(self.halves)

    def inference(self) -> Tensor:
        """Evaluation mode, no graph."""
        with torch.inference_mode():
            output: Tensor = self.module(self._images)
        self.output = output
        return output

    def first_inference(self) -> Tensor:
        """The same; `prepare_first_inference()` has emptied the caches."""
        return self.inference()

    # ---------------------------------------------------------------------------------------------------- what comes before

    def prepare_training(self) -> None:
        """Training mode; no results, no gradients."""
        self._forget()
        self.module.train()

    def prepare_inference(self) -> None:
        """Evaluation mode; no results, no gradients; caches as they are."""
        self._forget()
        self.module.eval()

    def prepare_first_inference(self) -> None:
        """Evaluation mode, and every cache empty."""
        self.prepare_inference()
        for half in self.halves:
            half.clear_cache()

    def restore(self) -> None:
        """Put parameters and buffers back to what they were when the workload was built."""
        self._forget()
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(self._state[name])

    def groups(self) -> list[Group]:
        """The phases, in order; call `restore()` before each group. A module without halves has two phases fewer."""
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
        """What the stages since the last `prepare_*()` have left: output, gradients and effective parameters, by name."""
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
        """Whether parametrising and a cold cache are phases of this module."""
        return bool(self.halves)

    def other_batch(self) -> Tensor:
        """An input of another batch size, b // 2, or 2 if b is 1, for lines in the batch size."""
        size = len(self.x)
        other = self.x[: size // 2] if size > 1 else torch.cat((self.x, self.x))
        return other.detach().requires_grad_()

    def _forget(self) -> None:
        self.output = None
        self.effective = []
        self.x.grad = None
        self.optimizer.zero_grad(set_to_none=True)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers, those included that no state dict has."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


def parameter_halves(halves: Sequence[TwoHalves]) -> list[tuple[Tensor, ...]]:
    """The effective parameters of each half."""
    return [half.transform_parameters(image_size(half)) for half in halves]


def image_size(half: TwoHalves) -> int:
    """Of the images that a half is made for; a fully connected layer knows none."""
    return getattr(half, "image_size", 1)


def _input_shape(case: Case) -> tuple[int, int, int, int]:
    spec = case.spec
    return case.batch_size, spec.input_channels, spec.image_size, spec.image_size


@torch.no_grad()
def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Add noise to every parameter, since many layers start as the identity and no trained layer is one."""
    for parameter in module.parameters():
        scale = parameter.square().mean().sqrt() if parameter.any() else torch.ones(())
        parameter.add_(NOISE * scale * torch.randn(parameter.shape, generator=generator))
    for half in module.modules():
        if isinstance(half, TwoHalves):
            half.refresh()  # power iterations that converge once, here on the weights as they are now
