"""Certificates: whether a layer or network is 1-Lipschitz with its present weights, in evaluation and in training mode.

A certificate is computed on a copy: neither weights nor buffers of the module change. It is computed in float64, except for a
layer that runs its own Triton kernel: that layer is certified in float32, as the kernel computes, and in the kernel's precision
(tf32 as ieee).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lipbench.composition.bound import upper_bound
from lipbench.composition.modules import has_hooks, has_own_forward
from lipbench.layers.base import TwoHalves, WithKernel
from lipbench.meters import lipschitz, machine
from lipbench.meters.lipschitz import Map
from lipbench.networks import ConvolutionalHead, FirstChannels, MaxMin, PadChannels
from lipbench.quantities import Bound, Certificate
from lipbench.weights import converted, copied, floating_dtype

VARIANCE_BATCH = 16
ONE_LIPSCHITZ = (
    MaxMin, PadChannels, FirstChannels, nn.Identity, nn.ReLU, nn.Tanh, nn.Flatten, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
"""Parts without parameters, between the layers of a network, that are always 1-Lipschitz."""


class _OnCopy(nn.Module):
    """A module that is called on a copy of its input, since its first operation may write into the input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.clone())  # type: ignore[no-any-return]  # modules return Any


def certify(
    module: nn.Module,
    like: Tensor,
    training: bool = True,
    each_layer: bool = False,
    remake: Callable[[], nn.Module] | None = None,
) -> Certificate:
    """Bounds of a module's Lipschitz constant for inputs shaped `like`, (n, c, s, s), in evaluation and in `training` mode.

    Linear layers: the ends of the spectrum, from all Fourier blocks where the map is circular, from the dense Jacobian where
    that is small enough (at the given image size or at a smaller one), and from Lanczos steps at the given size. Residual
    layers: the exact constant, with all units active. Everything else: a lower bound, and an upper bound by composition; it
    stands first where it shows that the module is 1-Lipschitz, and a remark says why there is none.

    `each_layer` says that every layer of a network claims to be 1-Lipschitz, as in the paper's ConvNet. If the network is an
    `nn.Sequential` of layers and of parts that are known to be 1-Lipschitz, it has the product over its layers, and the worst
    layer.

    `remake` makes a fresh module of the same kind, for modules that `copy.deepcopy` cannot copy. Raises `UnsupportedError` for
    a module that cannot be copied at all.
    """
    exact = _exact_copy(module, remake)
    like = torch.zeros(1, *like.shape[1:], dtype=torch.float64, device=like.device)
    by_layers = each_layer and isinstance(exact, nn.Sequential) and _is_chain(exact)
    if not by_layers and not (isinstance(exact, TwoHalves) and _is_chain(exact)):
        exact = _OnCopy(exact)
    with machine.exact_products():
        evaluation, remarks = _bounds(exact.eval(), like, by_layers)
        growing = _growing(exact, like) if by_layers else ()
        in_training = _bounds(exact.train(), like, by_layers)[0] if training else ()
        return Certificate(evaluation, in_training, growing, remarks=remarks)


def _bounds(module: nn.Module, like: Tensor, by_layers: bool) -> tuple[tuple[Bound, ...], tuple[str, ...]]:
    """Bounds in the present mode, the one to quote first, and remarks on them."""
    bounds = _network_bounds(module, like) if by_layers else _layer_bounds(module, like)
    if bounds[0].kind != "lower bound":
        return bounds, ()
    if _dtype(module) != torch.float64:
        return bounds, ("no upper bound: it computes in float32",)
    upper, reason = upper_bound(module, like, _layer_constant)
    if upper is not None and upper.largest < (1 - lipschitz.TOLERANCE) * bounds[0].largest:
        upper, reason = None, "it is another map than before, since its calls change its state"
    if upper is None:
        return bounds, (f"no upper bound: {reason}",)
    return ((upper, *bounds) if upper.largest <= 1 + lipschitz.TOLERANCE else (*bounds, upper)), ()


def _layer_constant(layer: nn.Module, like: Tensor) -> Bound:
    return _layer_bounds(layer, like, thorough=False)[0]


def _exact_copy(module: nn.Module, remake: Callable[[], nn.Module] | None = None) -> nn.Module:
    exact = copied(module, remake)
    for part in exact.modules():
        if isinstance(part, TwoHalves) and part.precision == "tf32":
            part.precision = "ieee"  # 10 bits of mantissa exceed the tolerance; the certificate is about the parameters
    served = any(isinstance(part, WithKernel) and not part.fallback for part in exact.modules())
    return converted(exact, torch.float32 if served else torch.float64)


def violation(certificate: Certificate) -> str:
    """Reason why a certificate shows that its module is not 1-Lipschitz in evaluation mode; "" if it does not show that."""
    broken = next((bound for bound in certificate.evaluation if lipschitz.violates(bound)), None)
    if broken is not None:
        sign = ">=" if broken.kind == "lower bound" else "="
        return (
            f"Lipschitz constant {sign} {broken.largest:.6f} in evaluation, "
            f"found by {broken.how} at image size {broken.image_size}; 1 + {lipschitz.TOLERANCE:g} is allowed"
        )
    if certificate.growing:
        return f"the variance over a batch grows in {', '.join(certificate.growing)}"
    return ""


# ------------------------------------------------------------------------------------------------------------------ layers


def _layer_bounds(layer: nn.Module, like: Tensor, thorough: bool = True) -> tuple[Bound, ...]:
    """Bounds of a layer, the best first; if not `thorough`, only the best, and only the upper end of its spectrum."""
    rounding = _rounding(layer)
    if isinstance(layer, TwoHalves):
        apply, branch = _input_half(layer, like)
        if branch is not None:
            return tuple(map(_residual_constant, _spectrum(branch, like, rounding, both=False, thorough=thorough)))
    else:
        apply = layer
    if not lipschitz.is_affine(apply, like, rounding):
        return (_lower_bound(layer, apply, like),)
    bounds = _spectrum(apply, like, rounding, both=thorough, thorough=thorough)
    if layer.training or bounds[0].how != "lanczos" or not thorough:
        return bounds
    small = _small_image(layer, like)
    return (*bounds, small) if small is not None else bounds


def _input_half(layer: TwoHalves, like: Tensor) -> tuple[Map, Map | None]:
    """The input half, with the effective parameters of this mode computed once, and the branch of a residual layer."""
    dtype = _dtype(layer)
    with torch.no_grad():
        effective = tuple(tensor.detach() for tensor in layer.transform_parameters(lipschitz.image_size(like)))
        has_branch = layer.branch(like.to(dtype), *effective) is not None

    def apply(x: Tensor) -> Tensor:
        return layer.transform_input(x.to(dtype), *effective).double()

    def branch(x: Tensor) -> Tensor:
        found = layer.branch(x.to(dtype), *effective)
        assert found is not None
        return found.double()

    return apply, branch if has_branch else None


def _lower_bound(module: nn.Module, apply: Map, like: Tensor) -> Bound:
    """A lower bound by search. The search needs small differences, which float32 cannot represent, so it runs in float64: a
    layer with a kernel then computes as `paper` does."""
    if _dtype(module) != torch.float64:
        exact = copy.deepcopy(module).double()
        apply = _input_half(exact, like)[0] if isinstance(exact, TwoHalves) else exact
    return lipschitz.lower_bound(apply, like)


def _dtype(module: nn.Module) -> torch.dtype:
    """The dtype in which a copy computes: float64, or float32 where a kernel is used."""
    return floating_dtype(module) if any(True for _ in module.parameters()) else torch.float64


def _rounding(module: nn.Module) -> float:
    return lipschitz.ROUNDING if _dtype(module) == torch.float64 else lipschitz.SINGLE_ROUNDING


def _spectrum(apply: Map, like: Tensor, rounding: float, both: bool, thorough: bool) -> tuple[Bound, ...]:
    everything = lipschitz.exact_singular_values(apply, like, rounding)
    if everything is not None and not thorough:
        return (everything,)
    settled = lipschitz.SETTLED if thorough and rounding == lipschitz.ROUNDING else lipschitz.CONVERGED
    ends = lipschitz.extreme_singular_values(apply, like, both, settled)
    return (ends,) if everything is None else (everything, ends)


def _residual_constant(branch: Bound) -> Bound:
    """The constant of `x − B relu(Bᵀ x)` from the norm of `B Bᵀ`: the Jacobian with all units active, or with none."""
    return replace(branch, largest=max(1.0, branch.largest - 1), smallest=None)


def _small_image(layer: nn.Module, like: Tensor) -> Bound | None:
    """All singular values at the largest image whose Jacobian is small enough; None where the layer cannot take that image."""
    size = math.isqrt(lipschitz.DENSE_LIMIT // like.shape[1])
    if size < max(2, getattr(layer, "kernel_size", 1) if isinstance(layer, TwoHalves) else 1):
        return None
    smaller = like[..., :size, :size].contiguous()
    try:
        apply = _input_half(layer, smaller)[0] if isinstance(layer, TwoHalves) else layer
        return lipschitz.exact_singular_values(apply, smaller, _rounding(layer))
    except Exception:  # an external layer made for one size may raise anything at another
        return None


# ---------------------------------------------------------------------------------------------------------------- networks


def _is_chain(module: nn.Module) -> bool:
    """Whether a module applies its layers one after the other, with only parts between them that are known to be 1-Lipschitz.

    A forward pass of its own may do anything, and so may hooks. Layers are judged by their whole call, except for layers with
    two halves.
    """
    if isinstance(module, nn.Sequential):
        own = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
        return own and not has_hooks(module) and all(map(_is_chain, module))
    if isinstance(module, TwoHalves):
        return has_own_forward(module) and not has_hooks(module)
    if type(module) in (*ONE_LIPSCHITZ, ConvolutionalHead, nn.AdaptiveMaxPool2d):
        known = not isinstance(module, nn.AdaptiveMaxPool2d) or module.output_size == 1
        return known and not has_hooks(module) and all(map(_is_chain, module.children()))
    return any(True for _ in module.parameters())


def _parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of a network's layers with parameters. All its other parts are in `ONE_LIPSCHITZ`."""
    for child_name, child in module.named_children():
        full = f"{name}.{child_name}".removeprefix(".")
        if isinstance(child, nn.Sequential | ConvolutionalHead):
            yield from _parts(child, full)
        elif any(True for _ in child.parameters()):
            yield full, child


def _network_bounds(network: nn.Module, like: Tensor) -> tuple[Bound, ...]:
    """The product over all layers, an upper bound, and the worst layer; a lower bound where a layer has only a lower bound."""
    found = _bounds_of_layers(network, like)
    if not found:
        return (_lower_bound(network, network, like),)
    worst = max(found, key=lambda bound: bound.largest)
    product = _product(found, like)
    return (worst, _lower_bound(network, network, like)) if product is None else (product, worst)


def _bounds_of_layers(network: nn.Module, like: Tensor) -> list[Bound]:
    passed = lipschitz.pass_through(network, dict(_parts(network)), like.to(_dtype(network)))
    return [_layer_bounds(one.module, like.new_zeros(1, *one.shape[1:]), thorough=False)[0] for one in passed]


def _product(found: Sequence[Bound], like: Tensor) -> Bound | None:
    """The product of the layers' constants, an upper bound; None where a layer has no exact constant."""
    if not found or any(bound.kind != "exact" for bound in found):
        return None
    return Bound(math.prod(bound.largest for bound in found), None, "upper bound", "product", int(like.shape[-1]))


def _growing(network: nn.Module, like: Tensor) -> tuple[str, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(VARIANCE_BATCH, *like.shape[1:], generator=generator, dtype=like.dtype).to(like.device)
    passed = lipschitz.pass_through(network.eval(), dict(_parts(network)), images.to(_dtype(network)))
    return tuple(one.name for one in passed if lipschitz.grows(one))
