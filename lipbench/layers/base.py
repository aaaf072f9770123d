"""Base classes of all layers, with their two halves and the evaluation cache, and the registry entry of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import sympy
import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode

from lipbench import errors, theory
from lipbench.recomputation import recomputed
from lipbench.theory import NOTHING, Complexity, Cost


def refresh_steps(weight: Tensor, iterations: int) -> int:
    """Number of steps of a power iteration: `iterations`, or one for tensors without values, which cannot converge."""
    return 1 if weight.is_meta or detect_fake_mode() is not None else iterations


def refresh_loaded(module: TwoHalves, incompatible_keys: Any) -> None:
    """Hook that calls `refresh()` after a state dict was loaded; for layers with iterated state."""
    module.refresh()


_WITH_AUTOCAST = frozenset(name for name in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(name))
"""asked once, because TorchDynamo of PyTorch 2.11 cannot trace the question"""


def is_autocast(device: str) -> bool:
    """Whether autocast is enabled here, on a type of device such as 'cpu'."""
    return device in _WITH_AUTOCAST and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> AbstractContextManager[object]:
    """A context in which operations on a type of device compute in the precision of their arguments."""
    return torch.autocast(device, enabled=False) if is_autocast(device) else nullcontext()


class _Cache:
    """Effective parameters, with the tensors and conditions that they were computed from."""

    __slots__ = ("conditions", "effective", "sources", "versions")

    def __init__(self, sources: tuple[Tensor, ...], conditions: tuple[object, ...], effective: tuple[Tensor, ...]) -> None:
        self.sources = sources  # kept alive, so that no other tensor can get the same identity
        self.versions = tuple(source._version for source in sources)
        self.conditions = conditions
        self.effective = effective

    def serves(self, sources: tuple[Tensor, ...], conditions: tuple[object, ...]) -> bool:
        return (
            self.conditions == conditions
            and len(self.sources) == len(sources)
            and all(a is b and a._version == version for a, b, version in zip(self.sources, sources, self.versions))
        )


def _laid_out(tensor: Tensor) -> Tensor:
    """The tensor in a layout that every product takes without a copy: contiguous or, for a kernel, also channels-last.

    Decompositions give column-major matrices, and `permute` and `mH` give views of another order, which each call would copy.
    """
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.resolve_conj().contiguous()


class TwoHalves(nn.Module, ABC):
    """A layer whose forward pass is a parameter half followed by an input half (Table 1 of arXiv 2311.16833).

    In training mode the parameter half runs in every forward pass, and gradients flow through it. In evaluation mode its result
    is cached, if no gradient of it can be needed: gradients are disabled, or no parameter requires one.

    The cache does not notice a write through `parameter.data`, which changes no version counter: write in place under
    `torch.no_grad()` instead. It does not notice a new value of an attribute such as `iterations`: call `clear_cache()`. It
    ignores tangents of `torch.autograd.forward_ad` on parameters; under `torch.func.jvp` the parameter half always runs.
    """

    precision: str = "ieee"
    """'ieee', 'tf32x3' or 'tf32': precision of products in lipbench's kernels; PyTorch's products follow PyTorch's settings"""
    recompute: bool = False
    """whether a training forward pass keeps only its input, and the backward pass computes both halves again"""
    device_type: str = ""
    """such as 'cuda': the device whose form of operations is computed; "": that of the input. Predictions run on others."""
    _cache: _Cache | None = None

    def is_on_cpu(self, x: Tensor) -> bool:
        """Whether the operations have the form that is quickest on a CPU."""
        return (self.device_type or x.device.type) == "cpu"

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """What the parameter half uses and does not differentiate: iterated or random vectors; by default, there are none.

        All changes of state and all random numbers of a forward pass belong here: recomputation does not repeat this call.
        """
        return ()

    @abstractmethod
    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        """The parameter half: free parameters → effective ones, for images of `image_size`. It does not depend on the input.

        `advanced` is what `advance()` returned. Call `parameter_half()` for both together.
        """

    @abstractmethod
    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        """The input half: input and effective parameters → output."""

    def branch(self, x: Tensor, *effective: Tensor) -> Tensor | None:
        """`B Bᵀ x` if the input half is `x − B relu(Bᵀ x + bias)`, else None.

        The Jacobian of such a layer is `I − B D Bᵀ`, with D the 0/1 pattern of active units. Its norm is largest if none or all
        are active: the Lipschitz constant is exactly max(1, ‖B Bᵀ‖ − 1).
        """
        return None

    def refresh(self) -> None:
        """Bring iterated state, such as vectors of power iterations, to convergence on the present weights, outside any graph.

        This default does nothing, since most layers have no such state.
        """
        return

    def start_as_end(self) -> None:
        """Choose the initial weights that the method has for the first layer and the head of a network.

        This default leaves them as they are, since most methods start all layers alike.
        """
        return

    def effective_parameters(self, image_size: int) -> tuple[Tensor, ...]:
        """Effective parameters, from the evaluation cache where that is allowed."""
        if self.training or torch.compiler.is_compiling() or (torch.is_grad_enabled() and self._has_trainable_parameters()):
            return self.parameter_half(image_size)
        sources = (*self.parameters(), *self.buffers())
        if any(source.is_inference() or torch._C._functorch.is_functorch_wrapped_tensor(source) for source in sources):
            return self.parameter_half(image_size)  # these tensors have no version counter
        fake_mode = detect_fake_mode()
        conditions = (image_size, self.precision, id(fake_mode), *((source.dtype, source.device) for source in sources))
        if self._cache is None or not self._cache.serves(sources, conditions):
            # Outside inference mode, so that a later call with an input gradient may save these tensors for its backward pass.
            with torch.inference_mode(False), torch.no_grad():
                effective = tuple(_laid_out(tensor.detach()) for tensor in self.parameter_half(image_size))
            self._cache = _Cache(sources, conditions, effective)
        return self._cache.effective

    def parameter_half(self, image_size: int) -> tuple[Tensor, ...]:
        """`advance()` and `transform_parameters()`, without cache and without autocast, whose half precision breaks bounds."""
        with self._without_autocast():
            return self.transform_parameters(image_size, *self.advance(image_size))

    def _both_halves(self, x: Tensor, image_size: int) -> Tensor:
        """The forward pass; with `recompute`, the halves are computed again in the backward pass, from the same vectors."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return self.transform_input(x, *self.effective_parameters(image_size))

        def halves(x: Tensor, *advanced: Tensor) -> Tensor:
            with self._without_autocast():
                effective = self.transform_parameters(image_size, *advanced)
            return self.transform_input(x, *effective)

        with self._without_autocast():
            advanced = self.advance(image_size)
        return recomputed(halves, x, *advanced)

    def _without_autocast(self) -> AbstractContextManager[object]:
        return without_autocast(next(self.parameters()).device.type)

    def clear_cache(self) -> None:
        """Drop the cached effective parameters; the next evaluation computes them again."""
        self._cache = None

    def _has_trainable_parameters(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .to(), .half() and similar methods write through .data: a round trip changes values but no version counter.
        self.clear_cache()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch gives it no types
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_cache", None)
        return state


class LipschitzConv2d(TwoHalves):
    """A convolutional layer on square images: (batch, in_channels, s, s) → (batch, out_channels, s, s).

    `image_size` is the s for which size-dependent state is made; other sizes work too. Raises `UnsupportedError` for an even
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
        return self._both_halves(x, x.shape[-1])

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, image_size={self.image_size}"


class WithKernel(LipschitzConv2d):
    """Base class of the `triton` implementations: it decides whether the layer's kernel can run, and says why not.

    Without its kernel, a layer computes as `paper` does. Kernels run on CUDA devices, and in Triton's interpreter on the CPU.
    """

    weight: nn.Parameter
    takes_images = False
    """whether the kernel works on images; the others work on weights alone"""

    @property
    def fallback(self) -> str:
        """Reason why this layer computes as `paper` does, one line; "" if its kernel runs."""
        if self.takes_images and is_autocast(self.weight.device.type):
            return "its kernel takes float32 images, and autocast gives it images in half precision"
        if self.weight.dtype != torch.float32:
            return f"kernels take float32, and these weights are {str(self.weight.dtype).removeprefix('torch.')}"
        size, limit = self._matrices()
        if size > limit:
            return f"its kernel takes matrices up to {limit} × {limit} in {self.precision}, and these are {size} × {size}"
        return ""

    def _matrices(self) -> tuple[int, int]:
        """Size of the kernel's square matrices, and the largest size that it takes in this precision; 0, 0: no limit."""
        return 0, 0


class LipschitzLinear(TwoHalves):
    """A fully connected layer: (batch, in_features) → (batch, out_features). Its parameter half has no image size."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) → (batch, out_features)."""
        return self._both_halves(x, 1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


@dataclass(frozen=True)
class Head:
    """The last, fully connected layer of a network, for a method that does not use its 1 × 1 convolution there."""

    layer: type[LipschitzLinear]
    exact: Complexity
    """costs in c = in_features = out_features and b"""
    advance: Cost = NOTHING
    tail: sympy.Expr = NOTHING.macs

    def costs(self, *, recompute: bool = False) -> Complexity:
        """Exact costs in training mode, also with recomputation."""
        return theory.recomputed(self.exact, self.advance, self.tail) if recompute else self.exact


@dataclass(frozen=True)
class Implementation:
    """One way to compute a method. All implementations of a method have the same parameters and state dict."""

    layer: type[LipschitzConv2d]
    exact: Complexity | None = None
    """real MACs and stored elements in training mode, c input and c output channels; None: not known"""
    needs: Literal["", "triton"] = ""
    """requirement of the machine; triton: that package, and a CUDA device or Triton's interpreter"""
    options: tuple[str, ...] = ()
    """names of the implementation's own options"""
    tail: sympy.Expr = NOTHING.macs
    """MACs after the last tensor that the backward pass needs: recomputation ends there"""
    advance: Cost | None = None
    """its own costs of `advance()` and of what else recomputation does not repeat; None: those of the method"""


@dataclass(frozen=True)
class Method:
    """The registry entry of a method. Each file in `layers/` defines one, and `registry.py` lists it in one line."""

    name: str
    title: str
    source: str
    implementations: Mapping[str, Implementation]
    """implementations by name; `paper` is the algorithm as published"""
    published: Complexity | None
    """the row of Table 1; None where the table has no such row"""
    published_operations: tuple[str, str]
    """the operations that Table 1 names for the input half and the parameter half"""
    iterations: Mapping[str, int] = field(default_factory=dict)
    """value of each iteration symbol in training mode"""
    evaluation_iterations: Mapping[str, int] = field(default_factory=dict)
    """values in evaluation mode; only those that differ"""
    advance: Cost = NOTHING
    """What recomputation does not repeat: MACs of `advance()` and `computed_once()` in training mode, and elements of their
    results."""
    linear: bool = True
    orthogonal: bool = False
    lipschitz: bool = True
    """whether the method claims to be 1-Lipschitz; the plain convolution does not"""
    head: Head | None = None

    def costs(self, implementation: str, *, recompute: bool = False) -> Complexity | None:
        """Exact costs of an implementation in training mode, also with recomputation; None where they are not known."""
        one = self.implementations.get(implementation)
        if one is None or one.exact is None or not recompute:
            return None if one is None else one.exact
        return theory.recomputed(one.exact, self.advance if one.advance is None else one.advance, one.tail)
