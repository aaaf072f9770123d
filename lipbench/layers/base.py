"""What all layers share: two halves, one evaluation cache, and the entry of a method in the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode

from lipbench import errors
from lipbench.theory import Complexity


def refresh_steps(iterations: int) -> int:
    """Steps of a power iteration: all of them, or one where fake tensors have no values that could converge."""
    return iterations if detect_fake_mode() is None else 1


def refresh_loaded(module: TwoHalves, incompatible_keys: Any) -> None:
    """Hook of a layer whose `refresh()` does something, for after a state dict was loaded into it."""
    module.refresh()


class _Cache:
    """Effective parameters and what they were computed from."""

    __slots__ = ("conditions", "effective", "sources", "versions")

    def __init__(self, sources: tuple[Tensor, ...], conditions: tuple[object, ...], effective: tuple[Tensor, ...]) -> None:
        self.sources = sources  # held, so that no other tensor can take their identity while this cache lives
        self.versions = tuple(source._version for source in sources)
        self.conditions = conditions
        self.effective = effective

    def serves(self, sources: tuple[Tensor, ...], conditions: tuple[object, ...]) -> bool:
        return (
            self.conditions == conditions
            and len(self.sources) == len(sources)
            and all(a is b and a._version == version for a, b, version in zip(self.sources, sources, self.versions))
        )


class TwoHalves(nn.Module, ABC):
    """A layer whose forward pass is a parameter half followed by an input half (Table 1 of arXiv 2311.16833).

    In training mode the parameter half runs in every forward pass and is differentiated through. In evaluation mode its result
    is cached, as long as nothing could ask for a gradient of it: gradients are disabled, or no parameter requires one. A write
    through `parameter.data` changes no version counter and is not noticed; write in place under `torch.no_grad()` instead.
    Nor is an attribute such as `iterations` that was set anew, until `clear_cache()`; nor are the tangents of
    `torch.autograd.forward_ad` on parameters; `torch.func.jvp` is served afresh.
    """

    precision: str = "ieee"
    """'ieee', 'tf32x3' or 'tf32': of products in kernels of our own; PyTorch's products follow PyTorch's settings"""
    _cache: _Cache | None = None

    @abstractmethod
    def transform_parameters(self, image_size: int) -> tuple[Tensor, ...]:
        """The parameter half: free parameters → effective ones, for images of `image_size`. Never sees the input."""

    @abstractmethod
    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        """The input half: input and effective parameters → output."""

    def branch(self, x: Tensor, *effective: Tensor) -> Tensor | None:
        """`B Bᵀ x` where the input half is `x − B relu(Bᵀ x + bias)`, None where it is not.

        The Jacobian of such a layer is `I − B D Bᵀ`, D the 0/1 pattern of active units, and its norm is largest where none or
        all are active: the Lipschitz constant is max(1, ‖B Bᵀ‖ − 1), exactly.
        """
        return None

    def refresh(self) -> None:
        """Bring iterated state, such as vectors of power iterations, to convergence on the present weights, outside any graph.

        Here it does nothing: most layers have no such state.
        """
        return

    def effective_parameters(self, image_size: int) -> tuple[Tensor, ...]:
        """The parameter half, from the evaluation cache where that is allowed."""
        if self.training or torch.compiler.is_compiling() or (torch.is_grad_enabled() and self._has_trainable_parameters()):
            return self._parameter_half(image_size)
        sources = (*self.parameters(), *self.buffers())
        if any(source.is_inference() or torch._C._functorch.is_functorch_wrapped_tensor(source) for source in sources):
            return self._parameter_half(image_size)  # neither has a version to watch
        fake_mode = detect_fake_mode()
        conditions = (image_size, self.precision, id(fake_mode), *((source.dtype, source.device) for source in sources))
        if self._cache is None or not self._cache.serves(sources, conditions):
            # Outside inference mode, so that a later call with an input gradient may save these tensors for its backward pass.
            with torch.inference_mode(False), torch.no_grad():
                effective = tuple(tensor.detach() for tensor in self._parameter_half(image_size))
            self._cache = _Cache(sources, conditions, effective)
        return self._cache.effective

    def _parameter_half(self, image_size: int) -> tuple[Tensor, ...]:
        """`transform_parameters`, kept out of autocast: rounded to half precision, no bound would hold."""
        device = next(self.parameters()).device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self.transform_parameters(image_size)
        with torch.autocast(device, enabled=False):
            return self.transform_parameters(image_size)

    def clear_cache(self) -> None:
        """Forget the cached evaluation parameters; the next evaluation computes them afresh."""
        self._cache = None

    def _has_trainable_parameters(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .to(), .half() and their like write through .data: a round trip changes values and leaves no other trace.
        self.clear_cache()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch gives it no types
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_cache", None)
        return state


class LipschitzConv2d(TwoHalves):
    """A convolutional layer on square images: (batch, in_channels, s, s) → (batch, out_channels, s, s).

    `image_size` is the s that size-dependent state is made for; other sizes work too. Raises `UnsupportedError` for an even
    kernel, and where a method cannot take the sizes.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise errors.even_kernel(kernel_size)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, s, s) → (batch, out_channels, s, s)."""
        if x.dim() != 4 or x.shape[-1] != x.shape[-2]:
            raise errors.not_square(tuple(x.shape))
        return self.transform_input(x, *self.effective_parameters(x.shape[-1]))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, image_size={self.image_size}"


class WithKernel(LipschitzConv2d):
    """What the `triton` implementations add: when their kernel serves, and why not where it does not.

    Without it a layer computes as `paper` does. Kernels run on CUDA devices; in triton's interpreter also on the CPU.
    """

    weight: nn.Parameter

    @property
    def fallback(self) -> str:
        """Why this layer computes as `paper` does, one line; "" where its kernel serves."""
        if self.weight.dtype != torch.float32:
            return f"kernels take float32, and these weights are {str(self.weight.dtype).removeprefix('torch.')}"
        size, limit = self._matrices()
        if size > limit:
            return f"its kernel takes matrices up to {limit} × {limit} in {self.precision}, and these are {size} × {size}"
        return ""

    def _matrices(self) -> tuple[int, int]:
        """Size of the square matrices that the kernel works on, and the largest it takes in this precision; 0, 0: no limit."""
        return 0, 0


class LipschitzLinear(TwoHalves):
    """A fully connected layer: (batch, in_features) → (batch, out_features). Its parameter half knows no image."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) → (batch, out_features)."""
        return self.transform_input(x, *self.effective_parameters(1))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


@dataclass(frozen=True)
class Head:
    """The fully connected layer that ends a network, where it is not the method's own 1 × 1 convolution."""

    layer: type[LipschitzLinear]
    exact: Complexity
    """in c = in_features = out_features and b"""


@dataclass(frozen=True)
class Implementation:
    """One way to compute a method. All those of a method share parameters and state dict."""

    layer: type[LipschitzConv2d]
    exact: Complexity | None = None
    """real MACs and stored elements in training mode, c input and c output channels; None: not known"""
    needs: Literal["", "triton"] = ""
    """what the machine must have; triton: that package, and a CUDA device or triton's interpreter"""
    options: tuple[str, ...] = ()
    """names of options of its own"""


@dataclass(frozen=True)
class Method:
    """All that is known of one method. One such entry per file in `layers/`, one line in `registry.py`."""

    name: str
    title: str
    source: str
    implementations: Mapping[str, Implementation]
    """by name; `paper` is the algorithm as published"""
    published: Complexity | None
    """the row of Table 1; None where the paper gives none"""
    published_operations: tuple[str, str]
    """what Table 1 names the input and the parameter half by"""
    iterations: Mapping[str, int] = field(default_factory=dict)
    """value of each iteration symbol in training mode"""
    evaluation_iterations: Mapping[str, int] = field(default_factory=dict)
    """the same in evaluation mode; only what differs"""
    linear: bool = True
    orthogonal: bool = False
    lipschitz: bool = True
    """whether the method claims to be 1-Lipschitz; the plain convolution does not"""
    head: Head | None = None
