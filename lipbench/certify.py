"""Certificates: whether a layer or network is 1-Lipschitz with its present weights, in evaluation and in training mode.

A certificate is computed on a copy: neither weights nor buffers of the module change. It is computed in float64, except for a
layer that runs its own Triton kernel: that layer is certified in float32, as the kernel computes, and in the kernel's precision
(tf32 as ieee).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipbench.composition.bound import upper_bound
from lipbench.composition.modules import has_hooks, has_own_forward
from lipbench.layers.base import TwoHalves, WithKernel
from lipbench.meters import lipschitz, machine, noise, search
from lipbench.meters.noise import Map, Noise
from lipbench.networks import ConvolutionalHead, FirstChannels, MaxMin, PadChannels
from lipbench.quantities import Bound, Certificate, Verdict
from lipbench.weights import converted, copied, floating_dtype

VARIANCE_BATCH = 16
ONE_LIPSCHITZ = (
    MaxMin, PadChannels, FirstChannels, nn.Identity, nn.ReLU, nn.Tanh, nn.Flatten, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
"""Parts without parameters, between the layers of a network, that are always 1-Lipschitz."""
NEARLY_NONE = 1e-6
"""A constant below this is suspicious."""


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
    claimed: float = 1.0,
) -> Certificate:
    """Bounds of a module's Lipschitz constant for inputs shaped `like`, (n, c, s, s), in evaluation and in `training` mode.

    Linear layers: the ends of the spectrum, from all Fourier blocks where the map is circular, from the dense Jacobian where
    that is small enough (at the given image size or at a smaller one), and from Lanczos steps at the given size. Residual
    layers: the exact constant, with all units active. Everything else: a lower bound, and an upper bound by composition; it
    stands first where it shows what the module claims, and a remark says why there is none. A map that is random, rounds or
    computes in lower precision has bounds that allow for it, or none; `unknown` and `remarks` say why.

    `each_layer` says that every layer of a network claims to be 1-Lipschitz, as in the paper's ConvNet. If the network is an
    `nn.Sequential` of layers and of parts that are known to be 1-Lipschitz, it has the product over its layers, and the worst
    layer. A map that jumps further than its arithmetic explains has no constant, and a bound that says so. `claimed` is the
    constant that the module claims. `remake` makes a fresh module of the same kind, for modules that `copy.deepcopy` cannot
    copy.

    Raises `UnsupportedError` for a module that cannot be copied at all, and `TypeError` where the output is not one tensor of
    real floating-point numbers.
    """
    like = torch.zeros(1, *like.shape[1:], dtype=torch.float64, device=like.device)
    exact, in_single = _working_copy(module, like, remake)
    by_layers = each_layer and isinstance(exact, nn.Sequential) and _is_chain(exact)
    if not by_layers and not (isinstance(exact, TwoHalves) and _is_chain(exact)):
        exact = _OnCopy(exact)
    with machine.exact_products():
        evaluation = _examined_whole(exact.eval(), like, by_layers, claimed)
        growing = _growing(exact, like) if by_layers else ()
        trained = _examined_whole(exact.train(), like, by_layers, claimed) if training else Examined(())
    in_training = (f"in training: {one}" for one in trained.remarks if one not in evaluation.remarks)
    bounds = tuple(_decided(bound, claimed) for bound in evaluation.bounds)
    remarks = (*in_single, *evaluation.remarks, *in_training)
    found = Certificate(bounds, trained.bounds, growing, evaluation.unknown, remarks, claimed)
    word, reason = verdict(found)
    return replace(found, unknown=reason) if word == "cannot tell" else found


def _working_copy(module: nn.Module, like: Tensor, remake: Callable[[], nn.Module] | None) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy to certify, and a remark if it computes in float32 because the module raises in float64: it may make float32
    tensors itself. Raises the error of the float64 copy where float32 does not work either."""
    try:
        _try(_exact_copy(module, remake), like)
    except RuntimeError as error:
        try:
            _try(converted(_exact_copy(module, remake), torch.float32), like)
        except Exception:  # an external module may raise anything
            raise error from None
        remark = f"certified in float32, because it raises in float64 ({' '.join(str(error).split())})"
        return converted(_exact_copy(module, remake), torch.float32), (remark,)
    return _exact_copy(module, remake), ()


def _try(module: nn.Module, like: Tensor) -> None:
    with torch.no_grad():
        module.eval()(like.to(_dtype(module), copy=True))


def _exact_copy(module: nn.Module, remake: Callable[[], nn.Module] | None = None) -> nn.Module:
    exact = copied(module, remake)
    for part in exact.modules():
        if isinstance(part, TwoHalves) and part.precision == "tf32":
            part.precision = "ieee"  # 10 bits of mantissa exceed the tolerance; the certificate is about the parameters
    served = any(isinstance(part, WithKernel) and not part.fallback for part in exact.modules())
    return converted(exact, torch.float32 if served else torch.float64)


def verdict(certificate: Certificate) -> tuple[Verdict, str]:
    """Whether the bounds in evaluation mode show what the module claims, and why not; the reason is "" for 'ok'.

    'ok': an exact constant or an upper bound proves it. 'not refuted': the lower bounds do not exceed the claim.
    'violates': a bound exceeds the claim. 'cannot tell': the map is too noisy, or has no bounds.
    """
    if reason := violation(certificate):
        return "violates", reason
    bounds, claimed = certificate.evaluation, certificate.claimed
    if certificate.unknown or not bounds:
        return "cannot tell", certificate.unknown or "no bound was found"
    if any(lipschitz.proves(bound, claimed) for bound in bounds):
        return "ok", ""
    for bound in bounds:
        if bound.uncertainty and bound.largest + bound.uncertainty > claimed * (1 + lipschitz.TOLERANCE):
            interval = (
                f"the constant is only known to lie between {bound.largest:.6f} and {bound.largest + bound.uncertainty:.6f}"
            )
            return "cannot tell", "; ".join((*certificate.remarks[:1], interval))
    lowest, highest = (
        next((bound.largest for bound in bounds if bound.kind == kind), math.nan) for kind in ("lower bound", "upper bound")
    )
    if math.isnan(highest):
        return "not refuted", f"only a lower bound is known: {lowest:.6f}"
    return "not refuted", f"the constant is known to be at most {highest:.6f}" + (
        "" if math.isnan(lowest) else f" and at least {lowest:.6f}"
    )


def violation(certificate: Certificate) -> str:
    """Reason why a certificate shows that its module violates its claim in evaluation mode; "" if it does not show that."""
    claimed = certificate.claimed
    broken = next((bound for bound in certificate.evaluation if lipschitz.violates(bound, claimed)), None)
    if broken is not None:
        if broken.how == "jump":
            jumps = [remark for remark in certificate.remarks if "jumps by" in remark]
            return "; ".join(("it has no Lipschitz constant", *jumps[:1]))
        sign = ">=" if broken.kind == "lower bound" else "="
        interval = f" ± {broken.uncertainty:.0e}" if broken.uncertainty and broken.kind == "exact" else ""
        return (
            f"Lipschitz constant {sign} {broken.largest:.6f}{interval} in evaluation, "
            f"found by {broken.how} at image size {broken.image_size}; "
            f"{claimed:g} + {claimed * lipschitz.TOLERANCE:g} is allowed"
        )
    if certificate.growing:
        return f"the variance over a batch grows in {', '.join(certificate.growing)}"
    return ""


# ------------------------------------------------------------------------------------------------------------------ layers


def _decided(bound: Bound, claimed: float) -> Bound:
    """The bound, or only a lower one where the claim lies within its uncertainty."""
    if lipschitz.violates(bound, claimed) or lipschitz.proves(bound, claimed) or not bound.uncertainty or bound.kind != "exact":
        return bound
    return replace(
        bound, largest=max(0.0, bound.largest - bound.uncertainty), smallest=None, kind="lower bound",
        uncertainty=2 * bound.uncertainty,
    )  # fmt: skip


@dataclass(frozen=True)
class Examined:
    """What is known of one layer in one mode."""

    bounds: tuple[Bound, ...]
    """the best first"""
    unknown: str = ""
    """why the bounds cannot prove anything; "" where they can"""
    remarks: tuple[str, ...] = ()


def _examined_whole(module: nn.Module, like: Tensor, by_layers: bool, claimed: float) -> Examined:
    """What is known of a module in its present mode, with an upper bound by composition where nothing else proves one."""
    found = Examined(_network_bounds(module, like)) if by_layers else _examined(module, like)
    if not found.bounds or found.bounds[0].kind != "lower bound" or found.bounds[0].how == "jump" or found.unknown:
        return found
    upper, reason = None, "it computes in float32"
    if _dtype(module) == torch.float64:
        upper, reason = upper_bound(module, like, _layer_constant)
    if upper is not None and upper.largest < (1 - lipschitz.TOLERANCE) * found.bounds[0].largest:
        upper, reason = None, "it is another map than before, since its calls change its state"
    if upper is None:
        return replace(found, remarks=(*found.remarks, f"no upper bound: {reason}"))
    proves = lipschitz.proves(upper, claimed)
    return replace(found, bounds=(upper, *found.bounds) if proves else (*found.bounds, upper))


def _layer_constant(layer: nn.Module, like: Tensor) -> Bound:
    """The best bound of a layer, and only the upper end of its spectrum."""
    bounds = _examined(layer, like, thorough=False).bounds
    return bounds[0] if bounds else Bound(math.inf, None, "lower bound", "ascent", search.image_size(like))


def _examined(layer: nn.Module, like: Tensor, thorough: bool = True) -> Examined:
    rounding = _rounding(layer)
    if isinstance(layer, TwoHalves):
        apply, branch = _input_half(layer, like)
        if branch is not None:
            return Examined(tuple(map(_residual_constant, _spectrum(branch, like, rounding, both=False, thorough=thorough))))
    else:
        apply = _as_map(layer)
    if not lipschitz.is_affine(apply, like, rounding):
        return _noisy(layer, apply, like, thorough)
    bounds = _spectrum(apply, like, rounding, both=thorough, thorough=thorough)
    if not layer.training and bounds[0].how == "lanczos" and thorough:
        small = _small_image(layer, like)
        bounds = (*bounds, small) if small is not None else bounds
    return Examined(bounds, remarks=_suspicious(bounds))


def _noisy(layer: nn.Module, apply: Map, like: Tensor, thorough: bool) -> Examined:
    """What is known of a layer that is not exactly affine: it may be non-linear, noisy, random, or all of these."""
    if _dtype(layer) != torch.float64 and isinstance(layer, TwoHalves):
        return Examined((_lower_bound(layer, apply, like),))
    known = noise.survey(apply, like, _restoring(layer))
    reason = known.reason()
    if not known.is_finite:
        return Examined((), reason)
    if known.steepness:
        jump = Bound(known.steepness, None, "lower bound", "jump", search.image_size(like))
        return Examined((jump,), remarks=(reason,))
    if not lipschitz.is_affine(known.apply, like, noise=known):
        bounds: tuple[Bound, ...] = (search.lower_bound(known.apply, like, known),)
    else:
        bounds = _spectrum(known.apply, like, _rounding(layer), both=thorough, thorough=thorough, known=known)
    if known.spread > noise.NEGLIGIBLE:
        lower = (replace(bound, kind="lower bound") for bound in bounds)
        bounds = tuple(sorted(lower, key=lambda bound: bound.largest, reverse=True))
    return Examined(bounds, reason if known.is_doubtful else "", (*([reason] if reason else []), *_suspicious(bounds)))


def _suspicious(bounds: tuple[Bound, ...]) -> tuple[str, ...]:
    if bounds and bounds[0].largest + bounds[0].uncertainty < NEARLY_NONE:
        return ("the output hardly depends on the input: check that the layer computes what it should",)
    return ()


def _as_map(layer: nn.Module) -> Map:
    """A layer as a map of float64 tensors, whose inputs it cannot change; it computes in its own dtype."""
    dtype = _dtype(layer)

    def apply(x: Tensor) -> Tensor:
        y = layer(x.to(dtype).clone())
        if not isinstance(y, Tensor) or not y.is_floating_point():
            got = f"a tensor of {y.dtype}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise TypeError(f"the output is {got}; let the layer return one tensor of real floating-point numbers")
        return y.double()

    return apply


def _restoring(layer: nn.Module) -> noise.Restore:
    """A function that gives a layer's parameters and buffers their present values again, also those that were replaced."""
    held = [(part, kind, name, tensor, tensor.detach().clone()) for part in layer.modules()
            for kind in ("_parameters", "_buffers")
            for name, tensor in getattr(part, kind).items() if tensor is not None]  # fmt: skip

    def restore() -> None:
        for part, kind, name, tensor, value in held:
            tensor.data = value.clone()
            getattr(part, kind)[name] = tensor

    return restore


def _input_half(layer: TwoHalves, like: Tensor) -> tuple[Map, Map | None]:
    """The input half, with the effective parameters of this mode computed once, and the branch of a residual layer."""
    dtype = _dtype(layer)
    with torch.no_grad():
        effective = tuple(tensor.detach() for tensor in layer.parameter_half(search.image_size(like)))
        has_branch = layer.branch(like.to(dtype), *effective) is not None

    def apply(x: Tensor) -> Tensor:
        return layer.transform_input(x.to(dtype), *effective).double()

    def branch(x: Tensor) -> Tensor:
        found = layer.branch(x.to(dtype), *effective)
        assert found is not None
        return found.double()

    return apply, branch if has_branch else None


def _in_double(layer: TwoHalves) -> TwoHalves:
    found = converted(copied(layer), torch.float64)
    assert isinstance(found, TwoHalves)
    return found


def _lower_bound(module: nn.Module, apply: Map, like: Tensor) -> Bound:
    """A lower bound by search. A layer with a kernel is searched in float64, and computes as `paper` does."""
    if isinstance(module, TwoHalves):
        apply = apply if _dtype(module) == torch.float64 else _input_half(_in_double(module), like)[0]
    else:
        apply = _as_map(module)
    return search.lower_bound(apply, like)


def _dtype(module: nn.Module) -> torch.dtype:
    """The dtype in which a copy computes: float64, or float32 where a kernel is used."""
    return floating_dtype(module) if any(True for _ in module.parameters()) else torch.float64


def _rounding(module: nn.Module) -> float:
    return lipschitz.ROUNDING if _dtype(module) == torch.float64 else lipschitz.SINGLE_ROUNDING


def _spectrum(
    apply: Map, like: Tensor, rounding: float, both: bool, thorough: bool, known: Noise | None = None
) -> tuple[Bound, ...]:
    """Bounds from the singular values of an affine map; a lower bound by search where these cannot be computed."""
    everything = lipschitz.exact_singular_values(apply, like, rounding, known)
    if everything is not None and not thorough:
        return (everything,)
    is_exact = rounding == lipschitz.ROUNDING and known is None
    settled = lipschitz.SETTLED if thorough and is_exact else lipschitz.CONVERGED
    allowed = max(rounding, lipschitz.SINGLE_ROUNDING if known else 0.0, 10 * known.drift if known else 0.0)
    ends = lipschitz.extreme_singular_values(apply, like, both, settled, allowed, known)
    if everything is not None and ends is not None and ends.kind == "exact" and known is None:
        ends = replace(ends, uncertainty=everything.uncertainty)
    found = tuple(bound for bound in (everything, ends) if bound is not None)
    return found or (search.lower_bound(apply, like, known),)


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
        apply = _input_half(layer, smaller)[0] if isinstance(layer, TwoHalves) else _as_map(layer)
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
    if product is None:  # another layer may be worse, of which only a lower bound is known
        return replace(worst, kind="lower bound"), _lower_bound(network, network, like)
    return product, worst


def _bounds_of_layers(network: nn.Module, like: Tensor) -> list[Bound]:
    passed = lipschitz.pass_through(network, dict(_parts(network)), like.to(_dtype(network)))
    return [_layer_constant(one.module, like.new_zeros(1, *one.shape[1:])) for one in passed]


def _product(found: Sequence[Bound], like: Tensor) -> Bound | None:
    """The product of the layers' constants, an upper bound; None where a layer has no exact constant."""
    if not found or any(bound.kind != "exact" for bound in found):
        return None
    return Bound(
        math.prod(bound.largest + bound.uncertainty for bound in found), None, "upper bound", "product", int(like.shape[-1])
    )


def _growing(network: nn.Module, like: Tensor) -> tuple[str, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(VARIANCE_BATCH, *like.shape[1:], generator=generator, dtype=like.dtype).to(like.device)
    passed = lipschitz.pass_through(network.eval(), dict(_parts(network)), images.to(_dtype(network)))
    return tuple(one.name for one in passed if lipschitz.grows(one))
